"""The objective of a micro-batch: the loss and the added terms, by autograd in float64."""

import pytest
import torch

from skyrl_core.contract.policy_loss import LossBatch, Need, PolicyLoss, TokenLosses
from skyrl_core.contract.reduction import count_batch, token_weights
from skyrl_core.errors import InvalidParamsError
from skyrl_core.maths.off_policy import OffPolicyCorrection
from skyrl_core.parameters.loss_params import LossParams
from skyrl_core.parameters.schedule import parse_schedule
from skyrl_core.registry.resolved_loss import ResolvedLoss
from skyrl_core.registry.scheduled_loss import ScheduledLoss
from skyrl_train.config.schema import RunConfig
from skyrl_train.step.objective import Objective, highest_entropy

F64 = torch.float64
MASK = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0]]).bool()


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    names = ("log_probs", "entropy", "advantages", "old", "rollout", "reference")
    values = {name: torch.rand(2, 4, generator=generator, dtype=F64) - 1 for name in names}
    values["entropy"] += 2
    return values | {name: values[name].requires_grad_() for name in ("log_probs", "entropy")}


def evaluated(objective: Objective, step: int = 0) -> tuple[dict[str, torch.Tensor], object]:
    given = tensors()
    inputs = {
        Need.OLD_LOG_PROBS: given["old"],
        Need.ROLLOUT_LOG_PROBS: given["rollout"],
        Need.REF_LOG_PROBS: given["reference"],
        Need.ENTROPY: given["entropy"],
    }

    def batch(**prepared: torch.Tensor) -> LossBatch:
        return LossBatch(
            log_probs=given["log_probs"],
            advantages=given["advantages"],
            mask=MASK,
            inputs=inputs,
            needs=objective.needs,
            step=step,
            **prepared,
        )

    weights = token_weights(MASK, "token_mean", count_batch(MASK), dtype=F64)
    prepared = objective.prepare(batch(), inputs).tensors
    return given, objective.evaluate(batch(prepared=prepared), inputs, weights, torch.tensor(1.0))


def objective(loss: str = "standard", **settings: object) -> Objective:
    return Objective(loss=ResolvedLoss.find(loss).scheduled(), reduction="token_mean", max_length=8, **settings)


def mean(values: torch.Tensor) -> torch.Tensor:
    return values[MASK].mean()


def standard(given: dict[str, torch.Tensor]) -> torch.Tensor:
    return -(given["log_probs"] - given["old"]).exp() * given["advantages"]


def test_a_kl_term_and_an_entropy_bonus_are_added_with_the_weights_of_the_tokens() -> None:
    given, output = evaluated(objective(kl_coef=0.3, kl_estimator="k2", entropy_coef=0.1))
    kl = 0.5 * (given["log_probs"] - given["reference"]).square()
    expected = mean(standard(given)) + 0.3 * mean(kl) - 0.1 * mean(given["entropy"])
    torch.testing.assert_close(output.total, expected)
    wrt = [given["log_probs"], given["entropy"]]
    torch.testing.assert_close(torch.autograd.grad(output.total, wrt), torch.autograd.grad(expected, wrt))
    assert output.terms["entropy_bonus"] == pytest.approx(-0.1 * mean(given["entropy"]).item())
    assert output.metrics["kl"].result() == pytest.approx(float(mean(kl)))
    assert output.metrics["entropy"].result() == pytest.approx(float(mean(given["entropy"])))


def test_a_correction_weights_the_loss_but_not_the_kl_term() -> None:
    correction = OffPolicyCorrection(weight="token", high=1.1)
    given, output = evaluated(objective(correction=correction, kl_coef=0.3))
    weight = (given["old"] - given["rollout"]).exp().clamp(max=1.1)
    kl = 0.5 * (given["log_probs"] - given["reference"]).square()
    torch.testing.assert_close(output.total, mean(weight * standard(given)) + 0.3 * mean(kl))
    assert output.metrics["correction_max"].result() == pytest.approx(1.1)


def test_with_a_separate_engine_the_mismatch_is_only_logged() -> None:
    plain = objective("standard")
    given, output = evaluated(plain.with_separate_engine(optimizer_steps=2))
    ratio = (given["old"] - given["rollout"]).exp()
    torch.testing.assert_close(output.total, mean(standard(given)))
    assert output.metrics["mismatch_ratio_max"].result() == pytest.approx(float(ratio[MASK].max()))
    assert output.metrics["mismatch_kl"].result() > 0
    assert "mismatch_kl" not in evaluated(plain)[1].metrics
    unknown = objective("reinforce")
    assert unknown.with_separate_engine(optimizer_steps=1).logs_mismatch
    assert not unknown.with_separate_engine(optimizer_steps=2).logs_mismatch


def test_the_loss_trains_only_the_tokens_of_highest_entropy() -> None:
    given, output = evaluated(objective(high_entropy_fraction=0.5, entropy_coef=0.1))
    threshold = given["entropy"][MASK].sort(descending=True).values[2]
    chosen = given["entropy"] >= threshold
    expected = mean(torch.where(chosen, standard(given), 0.0)) - 0.1 * mean(given["entropy"])
    torch.testing.assert_close(output.total, expected)


@pytest.mark.parametrize(("fraction", "count"), [(0.2, 2), (0.5, 3), (1.0, 6), (0.01, 1)])
def test_the_fraction_of_tokens_is_rounded_up(fraction: float, count: int) -> None:
    entropy = torch.arange(8.0).reshape(2, 4)
    chosen = highest_entropy(entropy, MASK, fraction)
    assert int(chosen.sum()) == count
    assert not chosen[~MASK].any()
    assert entropy[chosen].min() == entropy[MASK].sort(descending=True).values[count - 1]


def test_ties_up_to_rounding_are_chosen_together() -> None:
    entropy = torch.tensor([[2.0, 2.0 - 1e-6, 1.0, 0.5], [2.0 + 1e-6, 9.0, 1.0 + 1e-3, 9.0]])
    assert highest_entropy(entropy, MASK, 1 / 6).nonzero().tolist() == [[0, 0], [0, 1], [1, 0]]
    assert int(highest_entropy(entropy, MASK, 4 / 6).sum()) == 4  # 1.0 and 1.001 are not a tie


def test_no_token_is_chosen_from_an_empty_batch() -> None:
    assert not highest_entropy(torch.ones(2, 4), torch.zeros(2, 4).bool(), 0.5).any()


def test_scheduled_weights_are_those_of_the_step_and_are_logged() -> None:
    rising = parse_schedule({"schedule": "linear", "start": 0.0, "end": 1.0, "steps": 4})
    goal = objective(kl_coef=rising)
    assert "kl" not in evaluated(goal, step=0)[1].terms
    quarter, half = (float(evaluated(goal, step=step)[1].terms["kl"]) for step in (1, 2))
    assert half == pytest.approx(2 * quarter)
    assert goal.scheduled_values(2) == {"schedule/kl_coef": 0.5}
    assert goal.needs_reference


def test_scheduled_parameters_of_the_loss_are_logged_under_its_name() -> None:
    falling = {"schedule": "linear", "start": 0.4, "end": 0.2, "steps": 2}
    loss = ResolvedLoss.find("dual_clip", {"clip_high": falling}).scheduled()
    goal = Objective(loss=loss, reduction="token_mean", max_length=8)
    assert goal.scheduled_values(1) == {"schedule/dual_clip.clip_high": pytest.approx(0.3)}


@pytest.mark.parametrize(
    ("settings", "reference", "old", "entropy", "prepares"),
    [
        ({}, False, False, False, False),
        ({"kl_coef": 0.1}, True, False, False, False),
        ({"kl_reward_coef": 0.1}, True, True, False, False),
        ({"entropy_coef": 0.1}, False, False, True, False),
        ({"high_entropy_fraction": 0.2}, False, False, True, True),
        ({"correction": OffPolicyCorrection(band="token")}, False, True, False, False),
    ],
)
def test_only_needed_inputs_are_computed(settings, reference, old, entropy, prepares) -> None:
    goal = objective("reinforce", **settings)
    assert (goal.needs_reference, goal.needs_old_log_probs) == (reference, old)
    assert (goal.needs_entropy, goal.needs_preparation) == (entropy, prepares)


class Scalar(PolicyLoss):
    def compute_loss(self, log_probs, old_log_probs, advantages, masks, **kwargs):
        return -(log_probs * advantages).sum()


@pytest.mark.parametrize(
    "settings", [{"high_entropy_fraction": 0.2}, {"correction": OffPolicyCorrection(weight="token")}]
)
def test_a_loss_that_returns_one_number_cannot_be_weighted_by_token(settings) -> None:
    goal = Objective(loss=ScheduledLoss.fixed(Scalar(Scalar.params)), reduction="token_mean", max_length=8, **settings)
    with pytest.raises(InvalidParamsError, match="override its token_losses"):
        goal.check()


def test_a_loss_that_returns_one_number_takes_no_reduction_and_one_that_returns_tokens_does() -> None:
    config = RunConfig.model_validate({"trainer": {"algorithm": {"loss_reduction": "sequence_mean"}}})
    with pytest.raises(InvalidParamsError, match=r"loss_reduction = sequence_mean: .* has no effect"):
        Objective.of(config, ScheduledLoss.fixed(Scalar(Scalar.params))).check()
    Objective.of(RunConfig(), ScheduledLoss.fixed(Scalar(Scalar.params))).check()
    Objective.of(config, ResolvedLoss.find("standard").scheduled()).check()


@pytest.mark.parametrize("name", ["icepop", "importance_sampling", "decoupled_ppo", "vespo"])
def test_the_ratio_to_the_rollout_engine_is_never_counted_twice(name: str) -> None:
    with pytest.raises(InvalidParamsError, match="would count it twice"):
        objective(name, correction=OffPolicyCorrection(weight="token")).check()
    objective(name, correction=OffPolicyCorrection(band="geometric")).check()
    objective("dual_clip", correction=OffPolicyCorrection(weight="token")).check()


def test_samples_of_an_older_policy_are_not_trained_on_without_a_correction() -> None:
    with pytest.raises(InvalidParamsError, match=r"set trainer\.algorithm\.off_policy\.weight"):
        objective(prefetched=True).check()
    objective(prefetched=True, correction=OffPolicyCorrection(weight="token")).check()
    objective("importance_sampling", prefetched=True).check()


RISING = parse_schedule({"schedule": "linear", "start": 0.0, "end": 0.2, "steps": 9})


@pytest.mark.parametrize(
    ("loss", "settings", "reason"),
    [
        ("dual_clip", {"kl_coef": 0.1}, r"trainer.algorithm.kl_coef = 0.1 has a gradient where the advantage is 0"),
        ("dual_clip", {"entropy_coef": RISING}, r"entropy_coef = 0.2 has"),
        ("entropy_reg", {}, r"d loss / d entropy\[.*\] is .* at advantage 0"),
        ("kl_cov", {}, r"d loss / d log_probs\[.*\] is .* at advantage 0"),
        ("cross_entropy", {}, r"d loss / d log_probs"),
    ],
)
def test_sequences_without_an_advantage_are_not_skipped_where_they_have_a_gradient(loss, settings, reason) -> None:
    with pytest.raises(InvalidParamsError, match=reason):
        objective(loss, skip_zero_advantages=True, **settings).check()


class Adapts(PolicyLoss):
    """A loss that adapts to the metrics of a step."""

    name = "adapts"

    def token_losses(self, batch: LossBatch) -> TokenLosses:
        return TokenLosses(values=-batch.log_probs * batch.advantages)

    def after_step(self, metrics) -> None:
        self.seen = metrics


def test_a_loss_that_adapts_to_metrics_sees_all_sequences() -> None:
    loss = ScheduledLoss.fixed(Adapts(LossParams()))
    with pytest.raises(InvalidParamsError, match="adapts to the metrics of each step"):
        Objective(loss=loss, reduction="token_mean", max_length=8, skip_zero_advantages=True).check()


@pytest.mark.parametrize("name", ["dual_clip", "standard", "gspo", "cispo", "clip_cov", "sapo", "reinforce"])
def test_losses_without_a_gradient_at_advantage_zero_may_skip(name) -> None:
    objective(name, skip_zero_advantages=True).check()
