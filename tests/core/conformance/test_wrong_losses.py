"""Every wrong loss fails exactly the rule that it breaks; most are bugs that other projects released."""

import math
import os
import random
import warnings
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from pydantic import Field
from tests.core.conformance.example_losses import Correct, declared
from torch import Tensor

from skyrl_core.conformance import RULES, check_policy_loss
from skyrl_core.contract.metric import Metric
from skyrl_core.contract.policy_loss import LossBatch, Need, PolicyLoss, TokenLosses
from skyrl_core.contract.prepared import Prepared
from skyrl_core.maths.masked import masked_mean, sequence_mean
from skyrl_core.parameters.loss_params import LossParams


class InheritsItsVersion(Correct):
    name = "inherits_its_version"


class OverridesNothing(PolicyLoss):
    name = "overrides_nothing"


@declared
class ForAFutureContract(Correct):
    pass


ForAFutureContract.api_version = 2


@declared
class NeedsIsNotASet(Correct):
    @classmethod
    def needs(cls, params: Any) -> Any:
        return ["old_log_probs"]


@declared
class AlwaysRaises(Correct):
    def values(self, batch: LossBatch) -> Tensor:
        raise RuntimeError("no kernel for this device")


class ScalarWithOtherArguments(PolicyLoss):
    """SkyRL's example is called with arguments that it does not accept."""

    def compute_loss(self, log_probs, old_log_probs, advantages, config, loss_mask, rollout_logprobs):
        return masked_mean(-log_probs * advantages, loss_mask)


@declared
class ReadsWithoutDeclaring(Correct):
    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch) - 0.01 * batch.entropy


@declared
class DeclaresWithoutReading(Correct):
    @classmethod
    def needs(cls, params: Any) -> frozenset[Need]:
        return frozenset({Need.OLD_LOG_PROBS, Need.REF_LOG_PROBS})


class ScalarReadsWithoutDeclaring(PolicyLoss):
    def compute_loss(self, log_probs, old_log_probs, advantages, masks, **kwargs):
        return masked_mean(-log_probs * advantages - kwargs["entropy"], masks)


@declared
class ReducesItself(Correct):
    def values(self, batch: LossBatch) -> Tensor:
        return masked_mean(super().values(batch), batch.mask)


@declared
class OneLossPerSequence(Correct):
    def values(self, batch: LossBatch) -> Tensor:
        return sequence_mean(super().values(batch), batch.mask)


@declared
class Detaches(Correct):
    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch).detach()


@declared
class DoublesPrecision(Correct):
    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch).double()


@declared
class LogsAFloat(Correct):
    def token_losses(self, batch: LossBatch) -> TokenLosses:
        return TokenLosses(values=self.values(batch), metrics={"mean": 0.5})


@declared
class ZeroTimesInfinity(Correct):
    """Masked log-probs are 0, and 0 * log(0) is not 0."""

    def values(self, batch: LossBatch) -> Tensor:
        surprise = ((-batch.log_probs).log() * batch.mask).sum(-1, keepdim=True)
        return super().values(batch) + 0.01 * surprise


class ScalarReturnsATuple(PolicyLoss):
    def compute_loss(self, log_probs, old_log_probs, advantages, masks, **kwargs):
        return masked_mean(-log_probs * advantages, masks), {"clip_ratio": 0.0}


@declared
class OverflowsOnProducts(Correct):
    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch) + (2 * (batch.log_probs - batch.old_log_probs)).exp()


@declared
class ProductOfRatios(Correct):
    """An unbounded importance weight of a sequence: exp(7 * 50)."""

    def values(self, batch: LossBatch) -> Tensor:
        move = torch.where(batch.mask, batch.log_probs - batch.old_log_probs, 0.0)
        return -move.sum(-1, keepdim=True).exp() * batch.advantages


@declared
class DividesByLength(Correct):
    """0 / 0 if a sequence has no token."""

    def prepare(self, minibatch: LossBatch) -> Prepared:
        return Prepared(per_minibatch={"mean": (minibatch.advantages.sum(-1) / minibatch.mask.sum(-1)).mean()})

    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch) + 0.1 * batch.prepared["mean"] * batch.log_probs


@declared
class DividesBySpreadOfAdvantages(Correct):
    """0 / 0 if the minibatch has one token."""

    def prepare(self, minibatch: LossBatch) -> Prepared:
        advantages = minibatch.advantages[minibatch.mask]
        variance = (advantages - advantages.mean()).square().sum() / (advantages.numel() - 1)
        return Prepared(per_minibatch={"std": variance.sqrt() + 1e-6})

    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch) / batch.prepared["std"]


@declared
class ReadsItsLeftNeighbour(Correct):
    def values(self, batch: LossBatch) -> Tensor:
        previous = torch.cat([torch.zeros_like(batch.log_probs[:, :1]), batch.log_probs[:, :-1]], 1).detach()
        return super().values(batch) * (1 + 0.1 * previous.abs())


class ScalarMeanOfSumsPerColumn(PolicyLoss):
    """Weights tokens by their position, which counts masked tokens."""

    def compute_loss(self, log_probs, old_log_probs, advantages, masks, **kwargs):
        return masked_mean(-log_probs * advantages * 0.9 ** torch.arange(masks.shape[1]).to(log_probs), masks)


class ScalarMeanOverPadding(PolicyLoss):
    def compute_loss(self, log_probs, old_log_probs, advantages, masks, **kwargs):
        return (-(log_probs - old_log_probs).clamp(-20, 20).exp() * advantages * masks).mean()


@declared
class LengthOverWidth(Correct):
    """LUSPO in TRL and Liger: the sum of a sequence, divided by the padded width."""

    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch) * batch.mask.sum(-1, keepdim=True) / batch.mask.shape[1]


@declared
class AveragesOverItsMicroBatch(Correct):
    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch) / batch.mask.sum()


@declared
class CentresOverItsMicroBatch(Correct):
    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch) + 0.1 * batch.log_probs * masked_mean(batch.advantages, batch.mask)


@declared
class GeometricMeanOverItsMicroBatch(Correct):
    """verl's geo_mean: the mean over sequences is one over the sequences of the micro-batch."""

    def values(self, batch: LossBatch) -> Tensor:
        log_ratio = sequence_mean(batch.log_probs - batch.old_log_probs, batch.mask).unsqueeze(-1)
        return -log_ratio.clamp(-20, 20).exp() * batch.advantages / len(batch.mask)


@declared
class ImitatesOverItsMicroBatch(Correct):
    """NeMo-RL's positive-example NLL: one term of the sum has another denominator."""

    def values(self, batch: LossBatch) -> Tensor:
        good = batch.mask & (batch.advantages > 0)
        return super().values(batch) - 0.1 * torch.where(good, batch.log_probs, 0.0) / good.sum().clamp(min=1)


@declared
class PenaltyTimesTokens(Correct):
    """SkyRL's kl_cov: the policy term is already divided by the number of tokens, but the penalty is not."""

    def values(self, batch: LossBatch) -> Tensor:
        move = (batch.log_probs - batch.old_log_probs).square()
        return super().values(batch) + 0.1 * move * batch.mask.sum()


@declared
class DividesByItsKeptTokens(Correct):
    """AReaL's M2PO: the weight of a micro-batch counts the tokens before the selection, its mean those after."""

    def values(self, batch: LossBatch) -> Tensor:
        kept = batch.mask & ((batch.log_probs - batch.old_log_probs).abs() < 0.3)
        kept |= batch.mask & ~kept.any()
        return torch.where(kept, super().values(batch), 0.0) * batch.mask.sum() / kept.sum().clamp(min=1)


@declared
class WhitensOverItsMicroBatch(Correct):
    def values(self, batch: LossBatch) -> Tensor:
        mean = masked_mean(batch.advantages, batch.mask)
        variance = masked_mean((batch.advantages - mean).square(), batch.mask)
        return super().values(batch) / (variance + 0.1).sqrt()


@declared
class LogsAMeanOfMeans(Correct):
    def token_losses(self, batch: LossBatch) -> TokenLosses:
        mean = masked_mean(batch.advantages, batch.mask)
        return TokenLosses(
            values=self.values(batch), metrics={"mean": Metric(kind="mean", total=mean, count=torch.ones(()))}
        )


@declared
class RescalesIfRatiosAreHuge(Correct):
    """Only a corrupt sequence in the same micro-batch changes the others."""

    def values(self, batch: LossBatch) -> Tensor:
        largest = (batch.log_probs - batch.old_log_probs).detach().max()
        return super().values(batch) / torch.where(largest > 40, 2.0, 1.0)


@declared
class HalvesMicroBatchesWithARareToken(Correct):
    def values(self, batch: LossBatch) -> Tensor:
        is_rare = (batch.log_probs.detach() < -7).any()
        return torch.where(is_rare, 0.5, 1.0) * super().values(batch)


@declared
class WrongSign(Correct):
    def values(self, batch: LossBatch) -> Tensor:
        return -super().values(batch)


@declared
class ForgetsTheSignOfAdvantages(Correct):
    def values(self, batch: LossBatch) -> Tensor:
        return -(batch.log_probs - batch.old_log_probs).clamp(-20, 20).exp() * batch.advantages.abs()


@declared
class IgnoresAdvantages(Correct):
    def values(self, batch: LossBatch) -> Tensor:
        return -(batch.log_probs - batch.old_log_probs).clamp(-20, 20).exp()


@declared
class TurnsLargeAdvantages(Correct):
    """A Taylor series of the advantage, cut off."""

    def values(self, batch: LossBatch) -> Tensor:
        bounded = batch.advantages - batch.advantages**3 / 6
        return -(batch.log_probs - batch.old_log_probs).clamp(-20, 20).exp() * bounded


@declared
class SubtractsKl(Correct):
    @classmethod
    def needs(cls, params: Any) -> frozenset[Need]:
        return frozenset({Need.OLD_LOG_PROBS, Need.REF_LOG_PROBS})

    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch) - 0.1 * (batch.log_probs - batch.ref_log_probs).square()


@declared
class AddsEntropy(Correct):
    @classmethod
    def needs(cls, params: Any) -> frozenset[Need]:
        return frozenset({Need.OLD_LOG_PROBS, Need.ENTROPY})

    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch) + 0.01 * batch.entropy


@declared
class RewardsLeavingTheOldPolicy(Correct):
    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch) - 0.1 * (batch.log_probs - batch.old_log_probs).square()


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
class ForgetsAFactorInItsBackward(Correct):
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
class ClipsWithoutClippingTheGradient(Correct):
    def values(self, batch: LossBatch) -> Tensor:
        ratio = (batch.log_probs - batch.old_log_probs).clamp(-20, 20).exp()
        return -_StraightThroughClip.apply(ratio) * batch.advantages


@declared
class K1AsALoss(Correct):
    """slime's default, AReaL's teacher term: its gradient has no reference in it."""

    @classmethod
    def needs(cls, params: Any) -> frozenset[Need]:
        return frozenset({Need.OLD_LOG_PROBS, Need.REF_LOG_PROBS})

    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch) + 0.1 * (batch.log_probs - batch.ref_log_probs)


@declared
class KlUnderNoGrad(Correct):
    """A bug of SkyRL, and a year later of open-instruct."""

    @classmethod
    def needs(cls, params: Any) -> frozenset[Need]:
        return frozenset({Need.OLD_LOG_PROBS, Need.REF_LOG_PROBS})

    def values(self, batch: LossBatch) -> Tensor:
        with torch.no_grad():
            kl = (batch.log_probs - batch.ref_log_probs).square() / 2
        return super().values(batch) + 0.1 * kl


@declared
class DetachedEntropyBonus(Correct):
    @classmethod
    def needs(cls, params: Any) -> frozenset[Need]:
        return frozenset({Need.OLD_LOG_PROBS, Need.ENTROPY})

    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch) - 0.1 * batch.entropy.detach()


@declared
class DifferentiatesItsInputs(Correct):
    def values(self, batch: LossBatch) -> Tensor:
        return -(batch.log_probs - batch.old_log_probs).clamp(-20, 20).exp() * batch.advantages.requires_grad_()


@declared
class WritesIntoAdvantages(Correct):
    def values(self, batch: LossBatch) -> Tensor:
        return -(batch.log_probs - batch.old_log_probs).clamp(-20, 20).exp() * batch.advantages.mul_(2)


@declared
class WritesIntoGroups(Correct):
    @classmethod
    def needs(cls, params: Any) -> frozenset[Need]:
        return frozenset({Need.OLD_LOG_PROBS, Need.GROUPS})

    def values(self, batch: LossBatch) -> Tensor:
        batch.groups.add_(1)
        return super().values(batch)


@declared
class DrawsRandomNumbers(Correct):
    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch) * (1 + torch.rand(()))


@declared
class CountsItsCalls(Correct):
    def __init__(self, params: LossParams) -> None:
        super().__init__(params)
        self.calls = 0

    def values(self, batch: LossBatch) -> Tensor:
        self.calls += 1
        return super().values(batch) * (1 + 2e-7 * (self.calls % 7))


@declared
class WritesAndRestores(Correct):
    """Another stream, or another loss of a sum, may read in between."""

    def values(self, batch: LossBatch) -> Tensor:
        losses = super().values(batch)
        batch.advantages.mul_(2).div_(2)
        return losses


@declared
class WritesThroughData(Correct):
    def values(self, batch: LossBatch) -> Tensor:
        with torch.no_grad():
            batch.log_probs.data[:, 0].add_(1).sub_(1)
        return super().values(batch)


@declared
class WritesThroughNumpy(Correct):
    def values(self, batch: LossBatch) -> Tensor:
        batch.advantages.numpy()[...] *= 2
        return super().values(batch)


@declared
class WritesIntoItsMinibatch(Correct):
    def prepare(self, minibatch: LossBatch) -> Prepared:
        return Prepared(per_token={"centred": minibatch.advantages.sub_(0.1)})

    def values(self, batch: LossBatch) -> Tensor:
        return -(batch.log_probs - batch.old_log_probs).clamp(-20, 20).exp() * batch.prepared["centred"]


@declared
class WritesIntoWhatItPrepared(Correct):
    """The second micro-batch and the second epoch get the written values."""

    def prepare(self, minibatch: LossBatch) -> Prepared:
        return Prepared(per_minibatch={"bound": torch.full((1,), 20.0)})

    def values(self, batch: LossBatch) -> Tensor:
        bound = batch.prepared["bound"].mul_(1.5)
        return super().values(batch) * bound / bound


class WeightsParams(LossParams):
    weights: list[float] = Field(default=[1.0, 2.0])


@declared
class WritesIntoItsParameters(Correct):
    Params = WeightsParams

    def values(self, batch: LossBatch) -> Tensor:
        self.params.weights.append(1.0)
        return super().values(batch) * self.params.weights[0] * self.params.weights[1]


@declared
class StoresItsFirstMean(Correct):
    def __init__(self, params: LossParams) -> None:
        super().__init__(params)
        self.mean: Tensor | None = None

    def prepare(self, minibatch: LossBatch) -> Prepared:
        if self.mean is None:
            self.mean = masked_mean(minibatch.advantages, minibatch.mask)
        return Prepared(per_minibatch={"mean": self.mean})

    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch) + 0.1 * batch.prepared["mean"] * batch.log_probs


@declared
class WarmsUpOverItsCalls(CountsItsCalls):
    """Micro-batches are calls, so the warm-up depends on their size."""

    def values(self, batch: LossBatch) -> Tensor:
        self.calls += 1
        return Correct.values(self, batch) * min(1.0, 0.5 + 0.5 * (self.calls > 30))


@declared
class RemembersItsLastBatch(Correct):
    def __init__(self, params: LossParams) -> None:
        super().__init__(params)
        self.last = 0.0

    def values(self, batch: LossBatch) -> Tensor:
        last, self.last = self.last, float(batch.advantages.abs().max())
        return super().values(batch) * (1 + 1e-6 * (last > 4))


@declared
class AddsZerosOfTheDefaultDtype(Correct):
    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch) + torch.zeros(batch.mask.shape[1], device=batch.mask.device)


@declared
class SeedsTheGenerator(Correct):
    def values(self, batch: LossBatch) -> Tensor:
        torch.manual_seed(0)
        return super().values(batch) * (1 + torch.rand(()))


@declared
class SeedsPython(Correct):
    def values(self, batch: LossBatch) -> Tensor:
        random.seed(0)
        return super().values(batch) * (1 + random.random())


@declared
class SetsAnEnvironmentVariable(Correct):
    def values(self, batch: LossBatch) -> Tensor:
        os.environ["TOKENIZERS_PARALLELISM"] = "false, as the loss wants it"
        return super().values(batch)


@declared
class SilencesWarnings(Correct):
    def values(self, batch: LossBatch) -> Tensor:
        warnings.simplefilter("ignore")
        return super().values(batch)


@declared
class AsksForTheDefaultDtype(Correct):
    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch) * (1 + torch.finfo(torch.get_default_dtype()).eps ** 0.25)


@declared
class SampledEntropyBonus(Correct):
    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch) + 0.01 * batch.log_probs.exp() * batch.log_probs


@declared
class HardcodesFloat32(Correct):
    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch).float()


@declared
class AddsEpsilonToAProbability(Correct):
    def values(self, batch: LossBatch) -> Tensor:
        others = 1 - batch.log_probs.clamp(max=0).exp() + 1e-8
        return super().values(batch) - 0.1 * (others.log() - others.log().detach())


@declared
class ComparesEveryPairOfTokens(Correct):
    """A decay from each token to all later ones, as a matrix."""

    def values(self, batch: LossBatch) -> Tensor:
        at = torch.arange(batch.mask.shape[1], device=batch.mask.device)
        decay = torch.tril(0.5 ** (at.unsqueeze(-1) - at).clamp(min=0).to(batch.log_probs))
        advantages = batch.advantages @ decay.T / decay.sum(-1)
        return super().values(batch) + 0 * advantages.detach()


@declared
class MultipliesProbabilities(Correct):
    """The probability of a long sequence underflows."""

    def values(self, batch: LossBatch) -> Tensor:
        sequence = torch.where(batch.mask, batch.log_probs.exp(), 1.0).prod(-1, keepdim=True).log()
        return super().values(batch) + 0.01 * (sequence - sequence.detach())


@declared
class HasATableOfPositions(Correct):
    def values(self, batch: LossBatch) -> Tensor:
        table = torch.ones(4096, device=batch.mask.device, dtype=batch.log_probs.dtype)
        return super().values(batch) * table[torch.arange(batch.mask.shape[1])]


@declared
class CountsOnTheCpu(Correct):
    def values(self, batch: LossBatch) -> Tensor:
        first = (torch.arange(batch.mask.shape[1]) == 0).to(batch.log_probs.dtype)
        return super().values(batch) + 0 * first


@declared
class KeepsATableOnTheCpu(Correct):
    @classmethod
    def needs(cls, params: Any) -> frozenset[Need]:
        return frozenset({Need.OLD_LOG_PROBS, Need.GROUPS})

    def __init__(self, params: LossParams) -> None:
        super().__init__(params)
        self.weights = [1.0] * 16

    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch) * torch.tensor(self.weights)[batch.groups].unsqueeze(-1).to(batch.log_probs)


@declared
class LeavesTheDevice(Correct):
    def values(self, batch: LossBatch) -> Tensor:
        weights = torch.from_numpy(1 + 0 * batch.advantages.double().numpy())
        return super().values(batch) * weights.to(batch.log_probs)


@declared
class DiffersOnTheCpu(Correct):
    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch) * (1.0 if batch.log_probs.device.type == "cpu" else 1.5)


class TemperatureParams(LossParams):
    temperature: float = Field(default=1.0, ge=0)


@declared
class DividesByATemperature(Correct):
    Params = TemperatureParams

    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch) / self.params.temperature


class ShareParams(LossParams):
    share: float = Field(default=0.5, ge=0, le=1)
    power: float = 1.0


@declared
class TakesTheLogarithmOfAShare(Correct):
    Params = ShareParams

    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch) * self.params.power + math.log(1 - self.params.share) * batch.log_probs


@declared
class RaisesARatioToAPower(Correct):
    Params = ShareParams

    def values(self, batch: LossBatch) -> Tensor:
        ratio = (batch.log_probs - batch.old_log_probs).clamp(-20, 20).exp()
        return -(ratio**self.params.power) * batch.advantages * (1 + self.params.share)


class ForgottenParams(LossParams):
    beta: float = Field(default=0.1, ge=0)
    clip: float | None = None


@declared
class ForgetsAParameter(Correct):
    """slime's kl_coef under GRPO: it is read from the command line and never used."""

    Params = ForgottenParams

    def values(self, batch: LossBatch) -> Tensor:
        return super().values(batch).clamp(max=torch.inf if self.params.clip is None else self.params.clip)


class SelectionParams(LossParams):
    fraction: float = Field(default=0.2, gt=0, le=1)


@declared
class SelectsByScaledAdvantages(Correct):
    """SkyRL's clip_cov: advantages are already divided by the number of tokens, so no covariance reaches the bounds."""

    Params = SelectionParams

    def prepare(self, minibatch: LossBatch) -> Prepared:
        scaled = minibatch.advantages / 1000
        covariance = (minibatch.log_probs + 1) * scaled
        candidates = minibatch.mask & (covariance > 1.0) & (covariance < 5.0)
        count = int(self.params.fraction * candidates.sum())
        dropped = torch.zeros_like(candidates)
        dropped.view(-1)[candidates.flatten().nonzero()[:count]] = True
        return Prepared(per_token={"dropped": dropped})

    def values(self, batch: LossBatch) -> Tensor:
        return torch.where(batch.prepared["dropped"], 0.0, super().values(batch))


def _made_in_a_function() -> type[Correct]:
    @declared
    class MadeInAFunction(Correct):
        pass

    return MadeInAFunction


MadeInAFunction = _made_in_a_function()


@declared
class KeepsALambda(Correct):
    def __init__(self, params: LossParams) -> None:
        super().__init__(params)
        self.weight = lambda ratio: -ratio

    def __deepcopy__(self, memo: object) -> "KeepsALambda":
        return type(self)(self.params)


@declared
class ForgetsItsState(Correct):
    """A coefficient that decays, but starts at its initial value when the run is resumed."""

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


# By the rule that they break. no_host_sync only leaves notes and has its own tests.
WRONG: dict[str, list[type[PolicyLoss]]] = {
    "signature": [
        InheritsItsVersion,
        OverridesNothing,
        ForAFutureContract,
        NeedsIsNotASet,
        AlwaysRaises,
        ScalarWithOtherArguments,
    ],
    "declared_needs": [ReadsWithoutDeclaring, DeclaresWithoutReading, ScalarReadsWithoutDeclaring],
    "inputs_not_mutated": [
        WritesIntoAdvantages,
        WritesIntoGroups,
        WritesAndRestores,
        WritesThroughData,
        WritesThroughNumpy,
        WritesIntoItsMinibatch,
        WritesIntoWhatItPrepared,
        WritesIntoItsParameters,
    ],
    "shape_dtype": [
        ReducesItself,
        OneLossPerSequence,
        Detaches,
        DoublesPrecision,
        LogsAFloat,
        ZeroTimesInfinity,
        ScalarReturnsATuple,
    ],
    "deterministic": [
        DrawsRandomNumbers,
        CountsItsCalls,
        StoresItsFirstMean,
        WarmsUpOverItsCalls,
        RemembersItsLastBatch,
    ],
    "process_settings": [
        AddsZerosOfTheDefaultDtype,
        AsksForTheDefaultDtype,
        SeedsTheGenerator,
        SeedsPython,
        SetsAnEnvironmentVariable,
        SilencesWarnings,
    ],
    "finite": [OverflowsOnProducts, ProductOfRatios, DividesByLength, DividesBySpreadOfAdvantages],
    "masked_tokens": [ReadsItsLeftNeighbour, ScalarMeanOfSumsPerColumn, ScalarMeanOverPadding, LengthOverWidth],
    "partition_invariance": [
        AveragesOverItsMicroBatch,
        CentresOverItsMicroBatch,
        GeometricMeanOverItsMicroBatch,
        ImitatesOverItsMicroBatch,
        PenaltyTimesTokens,
        DividesByItsKeptTokens,
        WhitensOverItsMicroBatch,
        LogsAMeanOfMeans,
        RescalesIfRatiosAreHuge,
        HalvesMicroBatchesWithARareToken,
    ],
    "gradient_sign": [WrongSign, ForgetsTheSignOfAdvantages, IgnoresAdvantages, TurnsLargeAdvantages],
    "gradient": [ForgetsAFactorInItsBackward, ClipsWithoutClippingTheGradient],
    "inputs_steer": [K1AsALoss, KlUnderNoGrad, DetachedEntropyBonus],
    "term_signs": [SubtractsKl, AddsEntropy, RewardsLeavingTheOldPolicy],
    "no_gradient_to_inputs": [DifferentiatesItsInputs],
    "sampled_entropy": [SampledEntropyBonus],
    "precision": [HardcodesFloat32, AddsEpsilonToAProbability],
    "long_sequences": [ComparesEveryPairOfTokens, MultipliesProbabilities, HasATableOfPositions],
    "device": [CountsOnTheCpu, KeepsATableOnTheCpu, LeavesTheDevice, DiffersOnTheCpu],
    "parameter_bounds": [DividesByATemperature, TakesTheLogarithmOfAShare, RaisesARatioToAPower],
    "parameters": [ForgetsAParameter, SelectsByScaledAdvantages],
    "pickles": [MadeInAFunction, KeepsALambda],
    "state": [ForgetsItsState, LoadsNothing, KeepsATensor],
}


def test_every_rule_that_can_fail_has_a_loss_that_breaks_it() -> None:
    assert [*WRONG] == [rule.name for rule in RULES if rule.name != "no_host_sync"]
    assert sum(map(len, WRONG.values())) >= 60


@pytest.mark.parametrize(("rule", "wrong"), [(rule, wrong) for rule, losses in WRONG.items() for wrong in losses])
def test_a_wrong_loss_fails_exactly_the_rule_that_it_breaks(rule: str, wrong: type[PolicyLoss]) -> None:
    report = check_policy_loss(wrong(wrong.Params()), thorough=True)
    assert [failure.rule for failure in report.failures] == [rule], report.failures
    assert report.failures[0].failure
    assert report.failures[0].remedy


def test_the_loss_from_which_they_derive_is_correct() -> None:
    check_policy_loss(Correct(LossParams()), thorough=True).raise_for_failures()
