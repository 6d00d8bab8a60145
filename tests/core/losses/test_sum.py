"""sum: the gradient and value of its terms, under their labels."""

import time

import pytest
import torch

from skyrl_core.conformance import check_policy_loss
from skyrl_core.contract.loss_value import evaluate_loss
from skyrl_core.contract.policy_loss import LossBatch, Need, PolicyLoss, TokenLosses
from skyrl_core.contract.reduction import count_batch, token_weights
from skyrl_core.errors import InvalidParamsError, PluginError, PluginLoadError
from skyrl_core.registry.loss_registry import (
    LOSSES,
    describe_loss,
    load_policy_loss,
    register_policy_loss,
    validate_loss_params,
)
from skyrl_core.registry.resolved_loss import ResolvedLoss

TWO = {"terms": [{"loss": "dual_clip", "weight": 2.0}, {"loss": "cross_entropy", "weight": 0.5}]}


def example() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    log_probs = -torch.rand(3, 4, generator=generator, dtype=torch.float64).requires_grad_()
    old = log_probs.detach() + 0.3 * torch.randn(3, 4, generator=generator, dtype=torch.float64)
    advantages = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    return log_probs, old, advantages, torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0]]).bool()


def value_and_gradient(loss: PolicyLoss, **given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    log_probs, old, advantages, mask = example()
    leaf = log_probs.detach().requires_grad_()
    total = loss.compute_loss(leaf, old, advantages, mask, **given)
    return total, torch.autograd.grad(total, leaf)[0]


def test_value_and_gradient_are_the_weighted_sum_of_the_parts() -> None:
    total, gradient = value_and_gradient(load_policy_loss("sum", TWO))
    first, first_gradient = value_and_gradient(load_policy_loss("dual_clip"))
    second, second_gradient = value_and_gradient(load_policy_loss("cross_entropy"))
    torch.testing.assert_close(total, 2 * first + 0.5 * second, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, 2 * first_gradient + 0.5 * second_gradient, rtol=1e-12, atol=1e-15)


def test_value_and_gradient_norm_of_each_term_are_logged_under_its_label() -> None:
    log_probs, old, advantages, mask = example()
    loss = load_policy_loss("sum", TWO)
    batch = LossBatch(
        log_probs=log_probs,
        advantages=advantages,
        mask=mask,
        inputs={Need.OLD_LOG_PROBS: old},
        needs=loss.needs(loss.params),
    )
    weights = token_weights(mask, "token_mean", count_batch(mask), dtype=torch.float64)
    output = evaluate_loss(loss, batch, weights, 1.0)
    # cross entropy: half of the mean of -log pi, whose gradient to each of the six tokens is -0.5 / 6
    expected = -0.5 * log_probs[mask].mean()
    torch.testing.assert_close(output.terms["cross_entropy"], expected.detach())
    assert output.metrics["grad_norm/cross_entropy"].result() == pytest.approx(6**0.5 * 0.5 / 6)
    torch.testing.assert_close(output.terms["dual_clip"] + output.terms["cross_entropy"], output.total.detach())
    assert output.metrics["dual_clip/ratio_mean"].result() > 0


def test_the_same_loss_twice_has_numbered_labels() -> None:
    terms = [{"loss": "gspo", "weight": w} for w in (1.0, 2.0)]
    assert list(load_policy_loss("sum", {"terms": terms}).parts) == ["gspo_1", "gspo_2"]


def test_it_needs_what_its_parts_need_and_each_part_sees_its_own() -> None:
    loss = load_policy_loss("sum", {"terms": [{"loss": "entropy_reg"}, {"loss": "icepop"}]})
    assert loss.needs(loss.params) == {Need.OLD_LOG_PROBS, Need.ROLLOUT_LOG_PROBS, Need.ENTROPY}


def test_statistics_of_the_minibatch_reach_the_part_that_prepared_them() -> None:
    params = {"clip_cov_ratio": 0.5, "clip_cov_lb": -9.0, "clip_cov_ub": 9.0}
    loss = load_policy_loss("sum", {"terms": [{"loss": "clip_cov", "params": params}, {"loss": "cross_entropy"}]})
    total, gradient = value_and_gradient(loss)
    first, first_gradient = value_and_gradient(load_policy_loss("clip_cov", params))
    second, second_gradient = value_and_gradient(load_policy_loss("cross_entropy"))
    torch.testing.assert_close(total, first + second)
    torch.testing.assert_close(gradient, first_gradient + second_gradient)


class Scalar(PolicyLoss):
    def compute_loss(self, log_probs, old_log_probs, advantages, masks, **kwargs):
        return -(log_probs * advantages * masks).sum() / masks.sum()


def test_a_scalar_loss_is_a_term_with_its_exact_share(monkeypatch) -> None:
    monkeypatch.setattr(LOSSES, "_registered", {})
    register_policy_loss("scalar", Scalar)
    loss = load_policy_loss("sum", {"terms": [{"loss": "scalar"}]})
    total, gradient = value_and_gradient(loss)
    expected, expected_gradient = value_and_gradient(load_policy_loss("reinforce"))
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(gradient, expected_gradient)
    empty = loss.compute_loss(*example()[:3], torch.zeros(3, 4).bool())
    assert empty == 0


class Counts(PolicyLoss):
    name = "counts"
    api_version = 1
    seen = 0.0

    def token_losses(self, batch):
        return TokenLosses(values=-batch.log_probs)

    def after_step(self, metrics):
        self.seen = metrics["level"]

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


def test_the_state_of_each_part_is_kept_under_its_label(monkeypatch) -> None:
    monkeypatch.setattr(LOSSES, "_registered", {})
    register_policy_loss("counts", Counts)
    terms = {"terms": [{"loss": "counts"}, {"loss": "counts", "weight": 2}]}
    assert load_policy_loss("sum", terms).adapts
    assert not load_policy_loss("sum", TWO).adapts
    loss = load_policy_loss("sum", terms)
    loss.after_step({"counts_1/level": 3.0, "counts_2/level": 4.0, "loss/total": 1.0})
    assert loss.state_dict() == {"counts_1/seen": 3.0, "counts_2/seen": 4.0}
    again = load_policy_loss("sum", terms)
    again.load_state_dict(loss.state_dict())
    assert again.state_dict() == loss.state_dict()
    with pytest.raises(ValueError, match="was given the state other/seen"):
        again.load_state_dict({"other/seen": 1.0})


def test_weights_and_parameters_of_terms_take_schedules() -> None:
    falling = {"schedule": "linear", "start": 1.0, "end": 0.0, "steps": 4}
    terms = [
        {"loss": "dual_clip", "params": {"clip_high": falling | {"end": 0.2}}},
        {"loss": "reinforce", "weight": falling},
    ]
    scheduled = ResolvedLoss.find("sum", {"terms": terms}).scheduled()
    params = scheduled.at(2).params
    assert params.terms[0].params["clip_high"] == pytest.approx(0.6)
    assert params.terms[1].weight == 0.5


@pytest.mark.parametrize(
    ("terms", "says"),
    [
        ([], "terms = []: must have at least one value, not 0"),
        (3, "terms = 3: must be a list, such as [a, b]"),
        ([3], "terms.0 = 3: must be a mapping"),
        ([{"los": "dual_clip"}], "terms.0.los = 'dual_clip': unknown parameter; did you mean 'loss'?"),
        ([{"loss": "dual_clap"}], "did you mean 'dual_clip'?"),
        ([{"loss": "dual_clip", "params": {"clip_low": -1}}], "terms.0.params.clip_low = -1: must be > 0"),
        (
            [{"loss": "reinforce"}, {"loss": "dual_clip", "params": {"clip_lo": 0.1}}],
            "terms.1.params.clip_lo = 0.1: unknown parameter; did you mean 'clip_low'?",
        ),
        ([{"loss": "dual_clip", "weight": "heavy"}], "terms.0.weight = 'heavy': must be a number"),
        ([{"loss": "dual_clip", "wight": 1}], "terms.0.wight = 1: unknown parameter; did you mean 'weight'?"),
        ([{"loss": "dual_clip", "weight": 0}], "every weight is 0"),
        ([{"loss": "dual_clip@7"}], "terms.0.loss = 'dual_clip@7': policy loss"),
        ([{"loss": "sum", "params": {"terms": [{"loss": "nil"}]}}], "terms.0.params.terms.0.loss = 'nil': "),
    ],
)
def test_each_term_is_checked_by_the_schema_of_its_loss(terms: object, says: str) -> None:
    with pytest.raises(InvalidParamsError) as raised:
        validate_loss_params("sum", {"terms": terms})
    assert says in str(raised.value)


def test_every_problem_of_the_terms_is_named_once() -> None:
    terms = [{"loss": "dual_clip", "params": {"clip_low": -1, "clip_ratio_c": 0}}, {"weight": "heavy"}]
    with pytest.raises(InvalidParamsError) as raised:
        validate_loss_params("sum", {"terms": terms})
    paths = [problem.path for problem in raised.value.problems]
    assert paths == ["terms.0.params.clip_low", "terms.0.params.clip_ratio_c", "terms.1.loss", "terms.1.weight"]


def test_its_identity_has_the_files_of_every_part() -> None:
    identity = describe_loss("sum", {"terms": [{"loss": "entropy_reg"}, {"loss": "clipped_pg"}]})
    assert [part.distribution for part in identity.components] == ["skyrl-loss-entropyreg", "skyrl-loss-clippedpg"]
    assert identity.components[0] == describe_loss("entropy_reg")
    assert identity.record()["components"][1]["id"] == "skyrl-loss-clippedpg:clipped_pg@1"


def test_a_term_that_cannot_be_loaded_raises_with_its_reason(distributions) -> None:
    modules = {"torn_loss.py": "raise OSError('torn')\n"}
    distributions.add("torn-dist", {"skyrl.policy_losses": {"torn": "torn_loss:Loss"}}, modules=modules)
    with pytest.raises(PluginLoadError, match="torn"):
        load_policy_loss("sum", {"terms": [{"loss": "torn"}]})


def test_the_term_that_fails_is_named_with_the_step(monkeypatch) -> None:
    monkeypatch.setattr(LOSSES, "_registered", {})

    def leave(*_, **__):
        raise SystemExit(0)

    register_policy_loss("leaving", leave)
    loss = load_policy_loss("sum", {"terms": [{"loss": "dual_clip"}, {"loss": "leaving"}]})
    log_probs, old, advantages, mask = example()
    inputs, needs = {Need.OLD_LOG_PROBS: old}, frozenset(loss.needs(loss.params))
    batch = LossBatch(log_probs=log_probs, advantages=advantages, mask=mask, inputs=inputs, needs=needs, step=4)
    with pytest.raises(PluginError) as caught:
        loss.token_losses(batch)
    first, place, *_ = str(caught.value).splitlines()
    assert first == ("policy loss 'leaving', a term of sum, failed in token_losses, optimizer step 5: SystemExit: 0")
    assert "test_sum.py:" in place


@pytest.mark.parametrize("names", [["dual_clip", "entropy_reg"], ["clip_cov", "kl_cov"], ["icepop", "cross_entropy"]])
def test_a_sum_of_sound_losses_keeps_the_contract(names: list[str]) -> None:
    check_policy_loss(load_policy_loss("sum", {"terms": [{"loss": name} for name in names]})).raise_for_failures()


def nested(levels: int, width: int = 1) -> list[dict[str, object]]:
    terms: list[dict[str, object]] = [{"loss": "dual_clip"}]
    for _ in range(levels):
        terms = [{"loss": "sum", "params": {"terms": terms}}] * width
    return terms


def test_sums_inside_each_other_are_validated_once_per_term() -> None:
    start = time.process_time()
    validate_loss_params("sum", {"terms": nested(7)})
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("terms", "rule"),
    [
        (nested(8), "nested more than 8 levels deep"),
        (nested(20), "nested more than 8 levels deep"),
        (nested(30), "nested more than 64 levels deep"),
        (nested(6, width=3), "more than 100 terms"),
        (nested(7, width=10), "more than 20,000"),
        ([{"loss": "dual_clip"}] * 101, "more than 100 terms"),
    ],
)
def test_a_sum_of_too_many_levels_or_terms_is_refused_at_once(terms: object, rule: str) -> None:
    start = time.process_time()
    with pytest.raises(InvalidParamsError, match=rule):
        validate_loss_params("sum", {"terms": terms})
    assert time.process_time() - start < 5
