"""A deliberately wrong loss is caught by the rule that it breaks, and by no other. Most are bugs that were shipped."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from pydantic import Field
from torch import Tensor

from skyrl_core.conformance import RULES, check_policy_loss
from skyrl_core.contract.metric import Metric
from skyrl_core.contract.policy_loss import LossBatch, Need, PolicyLoss, TokenLosses
from skyrl_core.maths.masked import masked_mean, sequence_mean
from skyrl_core.parameters.loss_params import LossParams


class Right(PolicyLoss):
    """What the zoo departs from."""

    name = "right"
    Params = LossParams
    api_version = 1
    semantics_version = 1

    def values(self, batch: LossBatch) -> Any:
        return -(batch.log_probs - batch.old_log_probs).clamp(-20, 20).exp() * batch.advantages

    def token_losses(self, batch: LossBatch) -> TokenLosses:
        return TokenLosses(values=self.values(batch))


def declared(cls: type[Right]) -> type[Right]:
    """Give a class its own declarations, as the contract wants."""
    cls.name, cls.api_version, cls.semantics_version = cls.__name__, 1, 1
    cls.Params = vars(cls).get("Params", LossParams)
    return cls


# --- the zoo: name of the broken rule -> classes that break it and no other ---


class InheritsItsVersion(Right):
    name = "inherits_its_version"


class OverridesNothing(PolicyLoss):
    name = "overrides_nothing"


@declared
class OfAFutureContract(Right):
    pass


OfAFutureContract.api_version = 2


@declared
class NeedsIsNotASet(Right):
    @classmethod
    def needs(cls, params: Any) -> Any:
        return ["old_log_probs"]


@declared
class AlwaysRaises(Right):
    def values(self, batch: LossBatch) -> Tensor:
        raise RuntimeError("no kernel for this device")


class ScalarOfAnotherSignature(PolicyLoss):
    """The example that SkyRL ships is called with arguments that it does not take."""

    def compute_loss(self, log_probs, old_log_probs, advantages, config, loss_mask, rollout_logprobs):
        return masked_mean(-log_probs * advantages, loss_mask)


@declared
class ReadsWithoutDeclaring(Right):
    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch) - 0.01 * batch.entropy


@declared
class DeclaresWithoutReading(Right):
    @classmethod
    def needs(cls, params: Any) -> frozenset[Need]:
        return frozenset({Need.OLD_LOG_PROBS, Need.REF_LOG_PROBS})


class ScalarReadsWithoutDeclaring(PolicyLoss):
    def compute_loss(self, log_probs, old_log_probs, advantages, masks, **kwargs):
        return masked_mean(-log_probs * advantages - kwargs["entropy"], masks)


@declared
class ReducesItself(Right):
    def values(self, batch: LossBatch) -> Tensor:
        return masked_mean(super().values(batch), batch.mask)


@declared
class OneLossPerSequence(Right):
    def values(self, batch: LossBatch) -> Tensor:
        return sequence_mean(super().values(batch), batch.mask)


@declared
class Detaches(Right):
    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch).detach()


@declared
class DoublesPrecision(Right):
    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch).double()


@declared
class LogsAFloat(Right):
    def token_losses(self, batch: LossBatch) -> TokenLosses:
        return TokenLosses(values=self.values(batch), metrics={"mean": 0.5})


@declared
class ZeroTimesInfinity(Right):
    """What is masked is 0, and 0 * log(0) is not 0."""

    def values(self, batch: LossBatch) -> Tensor:
        surprise = ((-batch.log_probs).log() * batch.mask).sum(-1, keepdim=True)
        return super().values(batch) + 0.01 * surprise


class ScalarReturnsATuple(PolicyLoss):
    def compute_loss(self, log_probs, old_log_probs, advantages, masks, **kwargs):
        return masked_mean(-log_probs * advantages, masks), {"clip_ratio": 0.0}


@declared
class OverflowsOnProducts(Right):
    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch) + (2 * (batch.log_probs - batch.old_log_probs)).exp()


@declared
class ProductOfRatios(Right):
    """The importance weight of a sequence without a bound: exp of 7 * 50."""

    def values(self, batch: LossBatch) -> Tensor:
        move = torch.where(batch.mask, batch.log_probs - batch.old_log_probs, 0.0)
        return -move.sum(-1, keepdim=True).exp() * batch.advantages


@declared
class DividesByLength(Right):
    """0 / 0 where a sequence has no token."""

    def prepare(self, minibatch: LossBatch) -> dict[str, Tensor]:
        return {"mean": (minibatch.advantages.sum(-1) / minibatch.mask.sum(-1)).mean()}

    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch) + 0.1 * batch.prepared["mean"] * batch.log_probs


@declared
class DividesBySpreadOfAdvantages(Right):
    """0 / 0 where the minibatch has one token."""

    def prepare(self, minibatch: LossBatch) -> dict[str, Tensor]:
        advantages = minibatch.advantages[minibatch.mask]
        variance = (advantages - advantages.mean()).square().sum() / (advantages.numel() - 1)
        return {"std": variance.sqrt() + 1e-6}

    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch) / batch.prepared["std"]


@declared
class ReadsItsLeftNeighbour(Right):
    def values(self, batch: LossBatch) -> Tensor:
        previous = torch.cat([torch.zeros_like(batch.log_probs[:, :1]), batch.log_probs[:, :-1]], 1).detach()
        return super().values(batch) * (1 + 0.1 * previous.abs())


class ScalarMeanOfSumsPerColumn(PolicyLoss):
    """Weights tokens by where they stand, masked ones counted."""

    def compute_loss(self, log_probs, old_log_probs, advantages, masks, **kwargs):
        return masked_mean(-log_probs * advantages * 0.9 ** torch.arange(masks.shape[1]), masks)


class ScalarMeanOverPadding(PolicyLoss):
    def compute_loss(self, log_probs, old_log_probs, advantages, masks, **kwargs):
        return (-(log_probs - old_log_probs).clamp(-20, 20).exp() * advantages * masks).mean()


@declared
class LengthOverWidth(Right):
    """LUSPO in TRL and Liger: the sum of a sequence, divided by the padded width."""

    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch) * batch.mask.sum(-1, keepdim=True) / batch.mask.shape[1]


@declared
class AveragesOverItsMicroBatch(Right):
    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch) / batch.mask.sum()


@declared
class CentresOverItsMicroBatch(Right):
    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch) + 0.1 * batch.log_probs * masked_mean(batch.advantages, batch.mask)


@declared
class GeometricMeanOverItsMicroBatch(Right):
    """verl's geo_mean: the mean over sequences is one over those of the micro-batch."""

    def values(self, batch: LossBatch) -> Tensor:
        log_ratio = sequence_mean(batch.log_probs - batch.old_log_probs, batch.mask).unsqueeze(-1)
        return -log_ratio.clamp(-20, 20).exp() * batch.advantages / len(batch.mask)


@declared
class ImitatesOverItsMicroBatch(Right):
    """NeMo-RL's positive-example NLL: one term of the sum has a denominator of its own."""

    def values(self, batch: LossBatch) -> Tensor:
        good = batch.mask & (batch.advantages > 0)
        return super().values(batch) - 0.1 * torch.where(good, batch.log_probs, 0.0) / good.sum().clamp(min=1)


@declared
class PenaltyTimesTokens(Right):
    """SkyRL's kl_cov: the policy term is divided by the number of tokens beforehand, the penalty is not."""

    def values(self, batch: LossBatch) -> Tensor:
        move = (batch.log_probs - batch.old_log_probs).square()
        return super().values(batch) + 0.1 * move * batch.mask.sum()


@declared
class DividesByTheTokensThatItKeeps(Right):
    """AReaL's M2PO: the weight of a micro-batch counts the tokens before the selection, its mean those after it."""

    def values(self, batch: LossBatch) -> Tensor:
        kept = batch.mask & ((batch.log_probs - batch.old_log_probs).abs() < 0.3)
        kept |= batch.mask & ~kept.any()
        return torch.where(kept, super().values(batch), 0.0) * batch.mask.sum() / kept.sum().clamp(min=1)


@declared
class WhitensOverItsMicroBatch(Right):
    def values(self, batch: LossBatch) -> Tensor:
        mean = masked_mean(batch.advantages, batch.mask)
        variance = masked_mean((batch.advantages - mean).square(), batch.mask)
        return super().values(batch) / (variance + 0.1).sqrt()


@declared
class LogsAMeanOfMeans(Right):
    def token_losses(self, batch: LossBatch) -> TokenLosses:
        mean = masked_mean(batch.advantages, batch.mask)
        return TokenLosses(
            values=self.values(batch), metrics={"mean": Metric(kind="mean", total=mean, count=torch.ones(()))}
        )


@declared
class WrongSign(Right):
    def values(self, batch: LossBatch) -> Tensor:
        return -super().values(batch)


@declared
class ForgetsTheSignOfAdvantages(Right):
    def values(self, batch: LossBatch) -> Tensor:
        return -(batch.log_probs - batch.old_log_probs).clamp(-20, 20).exp() * batch.advantages.abs()


@declared
class IgnoresAdvantages(Right):
    def values(self, batch: LossBatch) -> Tensor:
        return -(batch.log_probs - batch.old_log_probs).clamp(-20, 20).exp()


class _HalfBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, log_ratio):
        ratio = log_ratio.exp()
        ctx.save_for_backward(ratio)
        return ratio

    @staticmethod
    def backward(ctx, gradient):
        (ratio,) = ctx.saved_tensors
        return gradient * ratio / 2


@declared
class ForgetsAFactorInItsBackward(Right):
    def values(self, batch: LossBatch) -> Tensor:
        return -_HalfBackward.apply((batch.log_probs - batch.old_log_probs).clamp(-20, 20)) * batch.advantages


class _StraightThroughClip(torch.autograd.Function):
    @staticmethod
    def forward(ctx, ratio):
        return ratio.clamp(0.8, 1.2)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


@declared
class ClipsWithoutClippingTheGradient(Right):
    def values(self, batch: LossBatch) -> Tensor:
        ratio = (batch.log_probs - batch.old_log_probs).clamp(-20, 20).exp()
        return -_StraightThroughClip.apply(ratio) * batch.advantages


@declared
class K1AsALoss(Right):
    """slime's default, AReaL's teacher term: its gradient has no reference in it."""

    @classmethod
    def needs(cls, params: Any) -> frozenset[Need]:
        return frozenset({Need.OLD_LOG_PROBS, Need.REF_LOG_PROBS})

    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch) + 0.1 * (batch.log_probs - batch.ref_log_probs)


@declared
class KlUnderNoGrad(Right):
    """SkyRL and open-instruct, a year apart."""

    @classmethod
    def needs(cls, params: Any) -> frozenset[Need]:
        return frozenset({Need.OLD_LOG_PROBS, Need.REF_LOG_PROBS})

    def values(self, batch: LossBatch) -> Tensor:
        with torch.no_grad():
            kl = (batch.log_probs - batch.ref_log_probs).square() / 2
        return super().values(batch) + 0.1 * kl


@declared
class DetachedEntropyBonus(Right):
    @classmethod
    def needs(cls, params: Any) -> frozenset[Need]:
        return frozenset({Need.OLD_LOG_PROBS, Need.ENTROPY})

    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch) - 0.1 * batch.entropy.detach()


@declared
class DifferentiatesItsInputs(Right):
    def values(self, batch: LossBatch) -> Tensor:
        return -(batch.log_probs - batch.old_log_probs).clamp(-20, 20).exp() * batch.advantages.requires_grad_()


@declared
class WritesIntoAdvantages(Right):
    def values(self, batch: LossBatch) -> Tensor:
        return -(batch.log_probs - batch.old_log_probs).clamp(-20, 20).exp() * batch.advantages.mul_(2)


@declared
class WritesIntoGroups(Right):
    @classmethod
    def needs(cls, params: Any) -> frozenset[Need]:
        return frozenset({Need.OLD_LOG_PROBS, Need.GROUPS})

    def values(self, batch: LossBatch) -> Tensor:
        batch.groups.add_(1)
        return super().values(batch)


@declared
class DrawsRandomNumbers(Right):
    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch) * (1 + torch.rand(()))


@declared
class CountsItsCalls(Right):
    def __init__(self, params: LossParams) -> None:
        super().__init__(params)
        self.calls = 0

    def values(self, batch: LossBatch) -> Tensor:
        self.calls += 1
        return super().values(batch) * (1 + 2e-7 * (self.calls % 7))


@declared
class SampledEntropyBonus(Right):
    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch) + 0.01 * batch.log_probs.exp() * batch.log_probs


@declared
class HardcodesFloat32(Right):
    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch).float()


@declared
class AddsEpsilonToAProbability(Right):
    def values(self, batch: LossBatch) -> Tensor:
        others = 1 - batch.log_probs.clamp(max=0).exp() + 1e-8
        return super().values(batch) - 0.1 * (others.log() - others.log().detach())


class ForgottenParams(LossParams):
    beta: float = Field(default=0.1, ge=0)
    clip: float | None = None


@declared
class ForgetsAParameter(Right):
    """slime's kl_coef under GRPO: it is read from the command line and goes nowhere."""

    Params = ForgottenParams

    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch).clamp(max=torch.inf if self.params.clip is None else self.params.clip)


class SelectionParams(LossParams):
    fraction: float = Field(default=0.2, gt=0, le=1)


@declared
class SelectsByScaledAdvantages(Right):
    """SkyRL's clip_cov: advantages come divided by the number of tokens, so that no covariance reaches the bounds."""

    Params = SelectionParams

    def prepare(self, minibatch: LossBatch) -> dict[str, Tensor]:
        scaled = minibatch.advantages / 1000
        covariance = (minibatch.log_probs + 1) * scaled
        candidates = minibatch.mask & (covariance > 1.0) & (covariance < 5.0)
        count = int(self.params.fraction * candidates.sum())
        dropped = torch.zeros_like(candidates)
        dropped.view(-1)[candidates.flatten().nonzero()[:count]] = True
        return {"dropped": dropped}

    def values(self, batch: LossBatch) -> Tensor:
        return torch.where(batch.prepared["dropped"], 0.0, super().values(batch))


def _made_in_a_function() -> type[Right]:
    @declared
    class MadeInAFunction(Right):
        pass

    return MadeInAFunction


MadeInAFunction = _made_in_a_function()


@declared
class KeepsALambda(Right):
    def __init__(self, params: LossParams) -> None:
        super().__init__(params)
        self.weight = lambda ratio: -ratio

    def __deepcopy__(self, memo: object) -> "KeepsALambda":
        return type(self)(self.params)


@declared
class ForgetsItsState(Right):
    """A coefficient that decays, and starts anew when the run is resumed."""

    def __init__(self, params: LossParams) -> None:
        super().__init__(params)
        self.coef = 1.0

    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch) + 0.1 * self.coef * (batch.log_probs - batch.old_log_probs).square()

    def after_step(self, metrics: Mapping[str, float]) -> None:
        self.coef *= 0.9


@declared
class LoadsNothing(ForgetsItsState):
    def state_dict(self) -> dict[str, float]:
        return {"coef": self.coef}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        pass


@declared
class KeepsATensor(ForgetsItsState):
    def state_dict(self) -> dict[str, Any]:
        return {"coef": torch.tensor(self.coef)}


# no_host_sync only ever leaves a note; its animals are below.
ZOO: dict[str, list[type[PolicyLoss]]] = {
    "signature": [
        InheritsItsVersion,
        OverridesNothing,
        OfAFutureContract,
        NeedsIsNotASet,
        AlwaysRaises,
        ScalarOfAnotherSignature,
    ],
    "declared_needs": [ReadsWithoutDeclaring, DeclaresWithoutReading, ScalarReadsWithoutDeclaring],
    "shape_dtype": [
        ReducesItself,
        OneLossPerSequence,
        Detaches,
        DoublesPrecision,
        LogsAFloat,
        ZeroTimesInfinity,
        ScalarReturnsATuple,
    ],
    "finite": [OverflowsOnProducts, ProductOfRatios, DividesByLength, DividesBySpreadOfAdvantages],
    "masked_tokens": [ReadsItsLeftNeighbour, ScalarMeanOfSumsPerColumn, ScalarMeanOverPadding, LengthOverWidth],
    "partition_invariance": [
        AveragesOverItsMicroBatch,
        CentresOverItsMicroBatch,
        GeometricMeanOverItsMicroBatch,
        ImitatesOverItsMicroBatch,
        PenaltyTimesTokens,
        DividesByTheTokensThatItKeeps,
        WhitensOverItsMicroBatch,
        LogsAMeanOfMeans,
    ],
    "gradient_sign": [WrongSign, ForgetsTheSignOfAdvantages, IgnoresAdvantages],
    "gradient": [ForgetsAFactorInItsBackward, ClipsWithoutClippingTheGradient],
    "inputs_steer": [K1AsALoss, KlUnderNoGrad, DetachedEntropyBonus],
    "no_gradient_to_inputs": [DifferentiatesItsInputs],
    "inputs_not_mutated": [WritesIntoAdvantages, WritesIntoGroups],
    "deterministic": [DrawsRandomNumbers, CountsItsCalls],
    "sampled_entropy": [SampledEntropyBonus],
    "precision": [HardcodesFloat32, AddsEpsilonToAProbability],
    "parameters": [ForgetsAParameter, SelectsByScaledAdvantages],
    "pickles": [MadeInAFunction, KeepsALambda],
    "state": [ForgetsItsState, LoadsNothing, KeepsATensor],
}
every_animal = pytest.mark.parametrize(("rule", "wrong"), [(rule, wrong) for rule, zoo in ZOO.items() for wrong in zoo])


def test_the_zoo_has_an_animal_for_every_rule_that_can_fail() -> None:
    assert [*ZOO] == [rule.name for rule in RULES if rule.name != "no_host_sync"]
    assert sum(map(len, ZOO.values())) >= 32


@every_animal
def test_a_wrong_loss_is_caught_by_exactly_the_rule_that_it_breaks(rule: str, wrong: type[PolicyLoss]) -> None:
    report = check_policy_loss(wrong(wrong.Params()), thorough=True)
    assert [failure.rule for failure in report.failures] == [rule], report.failures
    assert report.failures[0].failure
    assert report.failures[0].remedy


def test_what_is_not_wrong_in_the_zoo_is_right() -> None:
    check_policy_loss(Right(LossParams()), thorough=True).raise_for_failures()


# --- no_host_sync: slow, not wrong ---


@declared
class LooksAtItsRatio(Right):
    def values(self, batch: LossBatch) -> Tensor:
        ratio = (batch.log_probs - batch.old_log_probs).clamp(-20, 20).exp().detach()
        if ratio.max() > 10:
            return super().values(batch) * 1.0
        return super().values(batch)


@declared
class LogsAnItem(Right):
    def token_losses(self, batch: LossBatch) -> TokenLosses:
        values = self.values(batch)
        self.last = values.mean().item()
        return TokenLosses(values=values)


@declared
class SelectsByAMask(Right):
    def token_losses(self, batch: LossBatch) -> TokenLosses:
        values = self.values(batch)
        metrics = {"largest": Metric.max(values[batch.mask], batch.mask[batch.mask])}
        return TokenLosses(values=values, metrics=metrics)


@declared
class CopiesToTheHost(Right):
    def token_losses(self, batch: LossBatch) -> TokenLosses:
        batch.advantages.cpu()
        return super().token_losses(batch)


@declared
class SyncsOnceAStep(Right):
    def prepare(self, minibatch: LossBatch) -> dict[str, Tensor]:
        return {"mean": torch.full((), minibatch.advantages.mean().item())}


@pytest.mark.parametrize(
    ("slow", "what"),
    [
        (LooksAtItsRatio, "calls bool()"),
        (LogsAnItem, "calls item()"),
        (SelectsByAMask, "selects by a mask"),
        (CopiesToTheHost, "calls cpu()"),
        (SyncsOnceAStep, None),
        (Right, None),
    ],
)
def test_waiting_for_the_device_in_every_micro_batch_is_noted_with_the_line(
    slow: type[Right], what: str | None
) -> None:
    report = check_policy_loss(slow(LossParams()), thorough=True)
    report.raise_for_failures()
    [result] = [result for result in report.results if result.rule == "no_host_sync"]
    if what is None:
        assert result.notes == ()
    else:
        assert result.notes[0].startswith("test_zoo.py, line ")
        assert f" {what}: on a GPU this waits for the device" in result.notes[0]
