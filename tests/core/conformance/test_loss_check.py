"""Correct losses pass, notes are left, and the report names what was found and what to change."""

import json
import random
import time
from dataclasses import asdict
from typing import Any

import pytest
import torch
from tests.core.conformance.example_losses import Correct, declared
from torch import Tensor

from skyrl_core.conformance import RULES, WaiverError, check_policy_loss
from skyrl_core.conformance.batches import equal_sizes, example_batch, extreme_batches, wide_batch
from skyrl_core.conformance.rule import Violation
from skyrl_core.conformance.rules.partition_invariance import check_partition_invariance
from skyrl_core.contract.policy_loss import LossBatch, Need, PolicyLoss
from skyrl_core.contract.prepared import Prepared
from skyrl_core.errors import ConformanceError
from skyrl_core.losses.cispo import CispoLoss
from skyrl_core.losses.dual_clip import DualClipLoss
from skyrl_core.losses.gspo import GspoLoss
from skyrl_core.losses.standard import StandardLoss
from skyrl_core.maths.masked import masked_mean, sequence_mean
from skyrl_core.parameters.loss_params import LossParams

# --- correct losses ---


class ScalarTokenMean(PolicyLoss):
    """The scalar form, without protection against overflow and without a call of the base constructor."""

    def __init__(self, config) -> None:
        self.scale = config.get("scale", 1.0)

    def compute_loss(self, log_probs, old_log_probs, advantages, masks, **kwargs):
        losses = -self.scale * torch.exp(log_probs - old_log_probs) * advantages
        return (losses * masks).sum() / masks.sum()


@declared
class AddsKlToTheReference(Correct):
    """Its on-policy gradient does not come from the advantages only."""

    @classmethod
    def needs(cls, params: Any) -> frozenset[Need]:
        return frozenset({Need.OLD_LOG_PROBS, Need.REF_LOG_PROBS})

    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch) + 5 * (batch.log_probs - batch.ref_log_probs + 1).square().clamp(max=1e6)


@declared
class AddsEntropy(Correct):
    @classmethod
    def needs(cls, params: Any) -> frozenset[Need]:
        return frozenset({Need.OLD_LOG_PROBS, Need.ENTROPY})

    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch) - 3 * batch.entropy


@declared
class CentresOverTheMinibatch(Correct):
    """Uses batch statistics, per-row ones included, in the exact way: through prepare."""

    def prepare(self, minibatch: LossBatch) -> Prepared:
        mean = masked_mean(minibatch.advantages, minibatch.mask)
        return Prepared(
            per_token={"centred": minibatch.advantages - mean},
            per_sequence={"length": minibatch.mask.sum(-1)},
            per_minibatch={"mean": mean},
        )

    def values(self, batch: LossBatch) -> Tensor:
        ratio = (batch.log_probs - batch.old_log_probs).clamp(-20, 20).exp()
        return -ratio * batch.prepared["centred"] / (1 + batch.prepared["length"].unsqueeze(-1))


@declared
class TellsTablesApartByTheirSize(Correct):
    """Weighs positions, but takes the table for one of sequences if the batch has as many."""

    def prepare(self, minibatch: LossBatch) -> Prepared:
        return Prepared(per_minibatch={"weights": 1 + torch.arange(minibatch.mask.shape[1])})

    def values(self, batch: LossBatch) -> Tensor:
        weights = batch.prepared["weights"]
        of_sequences = len(weights) == len(batch.mask)
        return super().values(batch) * (weights.unsqueeze(-1) if of_sequences else weights[: batch.mask.shape[1]])


def test_a_loss_that_guesses_by_a_size_is_tried_on_equal_sizes() -> None:
    loss, batch = TellsTablesApartByTheirSize(LossParams()), example_batch()
    assert len({len(batch.mask), batch.mask.shape[1], int(batch.groups.max()) + 1}) == 3
    square = equal_sizes(batch)
    assert {len(square.mask), square.mask.shape[1], int(square.groups.max()) + 1} == {len(batch.mask)}
    with pytest.raises(Violation, match="as many tokens and groups as sequences: ") as broken:
        check_partition_invariance(loss, batch)
    assert torch.equal(broken.value.batch.mask, square.mask)  # with different sizes, its guesses are right


@declared
class ReadsEverything(Correct):
    @classmethod
    def needs(cls, params: Any) -> frozenset[Need]:
        return frozenset(Need)

    def values(self, batch: LossBatch) -> Tensor:
        far = (batch.rollout_log_probs - batch.ref_log_probs).clamp(-5, 5).exp() + batch.groups.unsqueeze(-1)
        return super().values(batch) * (1 + far) - batch.entropy


PASS: list[PolicyLoss] = [
    StandardLoss(StandardLoss.Params()),
    DualClipLoss(DualClipLoss.Params()),
    DualClipLoss(DualClipLoss.Params(clip_ratio_c=None, clip_low=1.0, clip_high=10.0)),
    CispoLoss(CispoLoss.Params()),
    CispoLoss(CispoLoss.Params(anchor="rollout", clip_low=0.2, clip_high=0.2)),
    GspoLoss(GspoLoss.Params()),
    GspoLoss(GspoLoss.Params(level="sequence", clip_low=0.2, clip_high=0.2)),
    ScalarTokenMean(ScalarTokenMean.Params(scale=1.5)),
    Correct(LossParams()),
    *(cls(LossParams()) for cls in (AddsKlToTheReference, AddsEntropy, CentresOverTheMinibatch, ReadsEverything)),
]
every_correct_loss = pytest.mark.parametrize("loss", PASS, ids=lambda loss: f"{type(loss).__name__}-{loss.params}")


@every_correct_loss
def test_a_correct_loss_keeps_every_rule(loss: PolicyLoss) -> None:
    report = check_policy_loss(loss, thorough=True)
    report.raise_for_failures()
    assert report.passed
    assert [result.rule for result in report.results] == [rule.name for rule in RULES]


@every_correct_loss
def test_before_training_the_quick_rules_run(loss: PolicyLoss) -> None:
    report = check_policy_loss(loss)
    report.raise_for_failures()
    assert [result.rule for result in report.results] == [rule.name for rule in RULES if rule.quick]


@pytest.mark.parametrize(
    "reduction", ["token_mean", "sequence_mean", "sequence_sum", "sequence_sum_norm", "prompt_mean"]
)
def test_a_correct_loss_keeps_every_rule_under_every_default_reduction(reduction: str) -> None:
    cls = declared(type("Reduced", (Correct,), {"default_reduction": reduction}))
    check_policy_loss(cls(LossParams())).raise_for_failures()


def test_the_check_before_training_takes_a_fraction_of_a_second() -> None:
    loss = GspoLoss(GspoLoss.Params())
    check_policy_loss(loss)
    start = time.process_time()
    check_policy_loss(loss)
    assert time.process_time() - start < 0.3


# --- notes: not wrong, but worth knowing ---


def notes_of(loss: PolicyLoss) -> dict[str, tuple[str, ...]]:
    report = check_policy_loss(loss)
    report.raise_for_failures()
    return {result.rule: result.notes for result in report.results if result.notes}


def test_a_built_in_loss_gets_no_notes() -> None:
    assert notes_of(DualClipLoss(DualClipLoss.Params())) == {}


def test_a_scalar_mean_over_sequences_passes_with_a_note_that_it_is_not_exact() -> None:
    class ScalarSequenceMean(PolicyLoss):
        def compute_loss(self, log_probs, old_log_probs, advantages, masks, **kwargs):
            losses = -(log_probs - old_log_probs).clamp(-20, 20).exp() * advantages
            lengths = masks.sum(-1)
            return (sequence_mean(losses, masks)).sum() / (lengths > 0).sum()

    (note,) = notes_of(ScalarSequenceMean(ScalarSequenceMean.Params()))["partition_invariance"]
    assert "not exact under micro-batches: in parts of 3+3 sequences" in note
    assert "override token_losses" in note


def test_an_overflow_at_an_impossible_ratio_is_only_noted() -> None:
    (note,) = notes_of(ScalarTokenMean(ScalarTokenMean.Params()))["finite"]
    assert "every log-ratio +200: not finite; clamp the log-ratio" in note


def test_a_declared_input_without_effect_on_a_scalar_loss_is_noted() -> None:
    class ScalarReinforce(PolicyLoss):
        def compute_loss(self, log_probs, old_log_probs, advantages, masks, **kwargs):
            return masked_mean(-log_probs * advantages, masks)

    (note,) = notes_of(ScalarReinforce(ScalarReinforce.Params()))["declared_needs"]
    assert "Need.OLD_LOG_PROBS declared in needs, without effect" in note


def test_a_loss_that_learns_from_good_samples_only_passes_with_a_note() -> None:
    @declared
    class GoodOnly(Correct):
        def values(self, batch: LossBatch) -> Tensor:
            return -(batch.log_probs - batch.old_log_probs).clamp(-20, 20).exp() * batch.advantages.clamp(min=0)

    (note,) = notes_of(GoodOnly(LossParams()))["gradient_sign"]
    assert "good samples only" in note


# --- the report ---


@declared
class WrongSign(Correct):
    def values(self, batch: LossBatch) -> Tensor:
        return -super().values(batch)


@declared
class ReducesItself(Correct):
    def values(self, batch: LossBatch) -> Tensor:
        return masked_mean(super().values(batch), batch.mask)


@declared
class ReadsWithoutDeclaring(Correct):
    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch) - 0.01 * batch.entropy


@declared
class AlwaysRaises(Correct):
    def values(self, batch: LossBatch) -> Tensor:
        raise RuntimeError("no kernel for this device")


@declared
class DrawsRandomNumbers(Correct):
    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch) * (1 + torch.rand(()))


@declared
class CountsItsMicroBatch(Correct):
    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch) / len(batch.mask)


def test_failures_raise_one_error_with_what_was_found_and_what_to_change() -> None:
    report = check_policy_loss(WrongSign(LossParams()))
    with pytest.raises(ConformanceError) as caught:
        report.raise_for_failures()
    assert caught.value.exit_code == 6
    assert str(caught.value).splitlines()[:2] == [
        "loss 'WrongSign' breaks 1 of 13 rules of the loss contract",
        "  gradient_sign: at ratio 1 a step raises the log-prob of tokens with A > 0 and lowers that of tokens "
        "with A < 0",
    ]
    assert "found:  at ratio 1 the advantage +1 of token [0, 0] adds " in str(caught.value)
    assert "fix:    losses are minimised" in str(caught.value)
    assert "input:  log_probs = [[" in str(caught.value)


def test_a_failure_is_shown_on_the_smallest_input_that_a_correct_loss_passes() -> None:
    (sign,) = check_policy_loss(WrongSign(LossParams())).failures
    # One token of the first sequence, on policy with advantage +1: its gradient is +1 instead of -1.
    assert "adds 1 to d loss / d log_prob" in (sign.failure or "")
    assert sign.input == {
        "log_probs": [[-0.1908]],
        "old_log_probs": [[-0.1908]],
        "advantages": [[1.0]],
        "mask": [[True]],
    }
    (parts,) = check_policy_loss(CountsItsMicroBatch(LossParams())).failures
    # It takes two sequences to make two micro-batches.
    assert [len(tensor) for tensor in parts.input.values()] == [2, 2, 2, 2]
    assert [len(row) for row in parts.input["mask"]] == [1, 1]


def test_a_rule_that_requires_a_broken_one_is_skipped() -> None:
    class ScalarMeanOverPadding(PolicyLoss):
        def compute_loss(self, log_probs, old_log_probs, advantages, masks, **kwargs):
            return (-(log_probs - old_log_probs).exp() * advantages * masks).mean()

    report = check_policy_loss(ScalarMeanOverPadding(ScalarMeanOverPadding.Params()))
    assert [result.rule for result in report.failures] == ["masked_tokens"]
    assert report.skipped == ("partition_invariance",)


def test_a_broken_gate_skips_every_later_rule() -> None:
    report = check_policy_loss(ReducesItself(LossParams()))
    expected = ["signature", "declared_needs", "inputs_not_mutated", "shape_dtype"]
    assert [result.rule for result in report.results] == expected
    assert report.skipped == tuple(rule.name for rule in RULES[4:] if rule.quick)
    with pytest.raises(ConformanceError, match="not checked until these rules hold: deterministic, process_settings"):
        report.raise_for_failures()


def test_the_message_of_an_undeclared_input_names_the_line_to_add() -> None:
    (failure,) = check_policy_loss(ReadsWithoutDeclaring(LossParams())).failures
    assert "add Need.ENTROPY to the set that `needs` returns" in (failure.failure or "")


def test_an_exception_is_a_failure_with_its_file_and_line() -> None:
    (failure,) = check_policy_loss(AlwaysRaises(LossParams())).failures
    assert (failure.failure or "").startswith("raised RuntimeError: no kernel for this device at ")
    assert "test_loss_check.py:" in (failure.failure or "")


@declared
class RaisesInTorch(Correct):
    def values(self, batch: LossBatch) -> Tensor:
        if len(batch.mask) == 1:
            batch.log_probs @ batch.log_probs.new_zeros(3, 3)
        return super().values(batch)


def test_the_line_of_an_error_in_torch_is_that_of_the_author_and_is_reported_once() -> None:
    report = check_policy_loss(RaisesInTorch(LossParams()), thorough=True)
    [failure] = report.failures
    assert failure.rule == "finite"
    line = RaisesInTorch.values.__code__.co_firstlineno + 2
    assert f"test_loss_check.py:{line}, in values" in (failure.failure or "")
    assert "partition_invariance" in report.skipped


@declared
class DropsTokensAtRandom(Correct):
    conformance_waivers = {"deterministic": "drops tokens at random"}

    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch) * torch.rand_like(batch.log_probs[:, :1]).ge(0.5)


def test_a_waived_gate_does_not_stop_the_rules_after_it() -> None:
    report = check_policy_loss(DropsTokensAtRandom(LossParams()))
    assert "deterministic" in [result.rule for result in report.waived]
    assert report.skipped == ()


# --- unusual but correct ---


@declared
class KeepsTablesByWidth(Correct):
    """Constants that are computed once and kept are no state."""

    def __init__(self, params: LossParams) -> None:
        super().__init__(params)
        self.tables: dict[Any, Tensor] = {}

    def values(self, batch: LossBatch) -> Tensor:
        key = batch.mask.shape[1], batch.log_probs.dtype, batch.log_probs.device
        if key not in self.tables:
            self.tables[key] = 1 / torch.arange(1, key[0] + 1, dtype=key[1], device=key[2])
        place = batch.mask.cumsum(-1) - 1
        return super().values(batch) * self.tables[key][place.clamp(min=0)]


@declared
class ReadsQuantiles(Correct):
    def prepare(self, minibatch: LossBatch) -> Prepared:
        valid = minibatch.advantages[minibatch.mask]
        return Prepared(per_minibatch={"median": torch.quantile(valid, 0.5) if len(valid) else valid.sum()})

    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch) * (1 + batch.prepared["median"].abs())


@declared
class LoopsOverTokens(Correct):
    def values(self, batch: LossBatch) -> Tensor:
        carry, columns = torch.zeros_like(batch.advantages[:, 0]), []
        for column in batch.mask.unbind(-1):
            carry = torch.where(column, 0.9 * carry + 1, carry)
            columns.append(carry)
        return super().values(batch) * torch.stack(columns, -1)


@declared
class LowersTheEntropyOnPurpose(AddsEntropy):
    conformance_waivers = {"term_signs": "minimises the entropy, as a test of confidence"}

    def values(self, batch: LossBatch) -> Tensor:
        return Correct.values(self, batch) + 0.01 * batch.entropy


@declared
class WeighsEntropyByTheRatio(LowersTheEntropyOnPurpose):
    conformance_waivers = {}

    def values(self, batch: LossBatch) -> Tensor:
        ratio = (batch.log_probs - batch.old_log_probs).clamp(-20, 20).exp()
        return -ratio * (batch.advantages + 0.01 * batch.entropy)


UNUSUAL = [KeepsTablesByWidth, ReadsQuantiles, LoopsOverTokens, LowersTheEntropyOnPurpose, WeighsEntropyByTheRatio]


@pytest.mark.parametrize("unusual", UNUSUAL)
def test_an_unusual_but_correct_loss_passes(unusual: type[PolicyLoss]) -> None:
    check_policy_loss(unusual(LossParams()), thorough=True).raise_for_failures()


def test_a_loop_over_tokens_and_a_prepare_that_needs_float32_are_notes() -> None:
    loop = check_policy_loss(LoopsOverTokens(LossParams()), thorough=True).notes
    assert any("a loop over tokens is slow" in note for note in loop)
    quantiles = check_policy_loss(ReadsQuantiles(LossParams()), thorough=True).notes
    assert any(note.startswith("prepare needs float32: it raises RuntimeError (") for note in quantiles)


def test_a_report_is_plain_data() -> None:
    assert json.loads(json.dumps(asdict(check_policy_loss(WrongSign(LossParams())))))["loss_name"] == "WrongSign"


# --- a check has no side effects ---


def test_the_global_random_state_is_restored_even_if_the_loss_uses_it() -> None:
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    check_policy_loss(DrawsRandomNumbers(LossParams()))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert random.getstate() == python_state


def test_a_check_works_under_no_grad() -> None:
    with torch.no_grad():
        check_policy_loss(StandardLoss(StandardLoss.Params())).raise_for_failures()


def test_example_batches_are_always_the_same_and_cover_both_signs_and_holes() -> None:
    one = example_batch()
    torch.manual_seed(99)
    two = example_batch()
    assert torch.equal(one.log_probs, two.log_probs)
    assert not one.mask[0, 2]
    assert (one.on_policy().log_probs == one.on_policy().old_log_probs).all()
    assert set(one.on_policy().advantages.unique().tolist()) == {-1.0, 1.0}
    lengths = {tuple(batch.mask.sum(-1).tolist()) for batch in extreme_batches(one, 50).values()}
    assert {(1,), (0,) * 6}.issubset(lengths)
    log_ratio = (wide_batch().log_probs - wide_batch().old_log_probs)[one.mask]
    assert log_ratio.min() < -2 < 2 < log_ratio.max()


# --- waivers ---


@declared
class BatchNormalised(Correct):
    """Normalises over the micro-batch on purpose."""

    conformance_waivers = {"partition_invariance": "advantages are whitened in each micro-batch, as in the paper"}

    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch) - 0.1 * batch.log_probs * masked_mean(batch.advantages, batch.mask)


@pytest.mark.parametrize("thorough", [False, True])
def test_a_waived_rule_is_not_a_failure_and_is_logged_with_its_reason(thorough: bool, caplog) -> None:
    report = check_policy_loss(BatchNormalised(LossParams()), thorough=thorough)
    report.raise_for_failures()
    (waived,) = report.waived
    assert (waived.rule, waived.passed) == ("partition_invariance", False)
    assert waived.waived == "advantages are whitened in each micro-batch, as in the paper"
    assert "'BatchNormalised' breaks rule partition_invariance on purpose: advantages are whitened" in caplog.text


def test_waiving_a_rule_that_holds_is_a_failure_of_a_thorough_check() -> None:
    waive = {"finite": "overflows only at impossible ratios"}
    (failure,) = check_policy_loss(Correct(LossParams()), thorough=True, waive=waive).failures
    assert failure.rule == "finite"
    assert failure.failure == "the rule holds, but is waived because 'overflows only at impossible ratios'"
    assert "remove the waiver" in (failure.remedy or "")
    check_policy_loss(Correct(LossParams()), waive=waive).raise_for_failures()


@pytest.mark.parametrize(
    ("waive", "message"),
    [
        ({"finitte": "why"}, "no such rule; did you mean 'finite'"),
        ({"finite": "  "}, "give the reason"),
        ({"signature": "why"}, "cannot be waived"),
    ],
)
def test_an_invalid_waiver_is_an_error(waive: dict[str, str], message: str) -> None:
    with pytest.raises(WaiverError, match=message) as caught:
        check_policy_loss(Correct(LossParams()), waive=waive)
    assert caught.value.exit_code == 2


def test_a_report_prints_its_verdict_and_a_line_for_each_rule_and_shows_as_a_table_in_jupyter() -> None:
    @declared
    class Reversed(Correct):
        def values(self, batch: LossBatch) -> Tensor:
            return -super().values(batch)

    report = check_policy_loss(Reversed(LossParams()))
    lines = str(report).splitlines()
    assert lines[0] == f"loss 'Reversed' breaks 1 of {len(report.results)} rules"
    assert f"  ok    signature: {report.results[0].explanation}" in lines
    [start] = [number for number, line in enumerate(lines) if line.startswith("  FAIL  gradient_sign: ")]
    assert lines[start + 1].startswith("        found: at ratio 1")
    html = report._repr_html_()
    assert html.count("<tr") == len(report.results)
    assert "<b>fix</b>: losses are minimised" in html
    assert str(check_policy_loss(Correct(LossParams()))).startswith("loss 'correct' passes 13 rules\n")
