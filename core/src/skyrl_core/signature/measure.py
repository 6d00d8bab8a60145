"""The signature of a loss: what a token weighs in the update, as a function of its importance ratio.

The weight is -d loss / d log pi of the token: the update raises log pi by it times the learning rate. It is comparable
over all losses; the value of a loss is not, because behind a stop-gradient it is no objective. Everything is measured
in float64 on the loss itself, so that any installed loss has a signature, also one that nobody has written down.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from skyrl_core.contract.loss_value import evaluate_loss
from skyrl_core.contract.policy_loss import LossBatch, Need, PolicyLoss, is_scalar_form
from skyrl_core.signature.clip_bounds import Break, find_breaks

ADVANTAGES = (1.0, -1.0)
WIDE = (1 / 8, 8.0)
"""The range of ratios that holds the bounds of most losses."""
POINTS = 241
"""Points of a curve; odd, so that ratio 1 is one of them where the range is symmetric."""

_ZOOM_BELOW = 0.05  # bounds nearer to 1 than this, in the log-ratio, cannot be told apart in the wide range
_AT_JUMP = 2e-6
_ENTROPY = 1.0  # nats; any value


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The sequence that is weighed: ``length`` tokens that are all alike, with one ratio to every other policy.

    The other policies (old, rollout, reference) agree: each gives the token ``probability``. The group is the probe
    alone, or the probe with the few sequences beside it that let ``prepare`` compute statistics.
    """

    length: int = 4
    probability: float = 0.1
    singled_out: bool = False
    """Whether the token stands out of its minibatch by the covariance of log pi and A, so that a ``prepare`` that
    selects tokens selects it; otherwise another token does."""


class Weighed(NamedTuple):
    """One evaluation at one ratio."""

    loss: float
    """Mean over the probe's tokens. An objective only where no stop-gradient is in the formula."""
    weight: float
    """-d loss / d log pi, mean over the probe's tokens of each token's own."""
    entropy_weight: float
    """-d loss / d H, likewise."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Loss and weight over the ratio, for one advantage."""

    advantage: float
    ratios: tuple[float, ...]
    losses: tuple[float, ...]
    weights: tuple[float, ...]
    breaks: tuple[Break, ...]

    @property
    def pieces(self) -> tuple[tuple[tuple[float, float], ...], ...]:
        """The weight as (ratio, weight) points, cut where it jumps; what a picture draws."""
        points = dict(zip(self.ratios, self.weights, strict=True))
        points |= {each.ratio: each.below for each in self.breaks if each.kind == "kink"}
        ordered, pieces = sorted(points.items()), []
        start: tuple[tuple[float, float], ...] = ()
        for jump in (each for each in self.breaks if each.kind == "jump"):
            # A point of the grid at the jump itself may lie on either side of it, up to rounding.
            before = [point for point in ordered if point[0] < jump.ratio * (1 - _AT_JUMP)]
            pieces.append((*start, *before, (jump.ratio, jump.below)))
            ordered = [point for point in ordered if point[0] > jump.ratio * (1 + _AT_JUMP)]
            start = ((jump.ratio, jump.above),)
        return (*pieces, (*start, *ordered))


@dataclass(frozen=True, kw_only=True)
class Signature:
    """The curves of a loss for A = +1 and A = -1, and what they were measured with."""

    probe: Probe
    curves: tuple[Curve, ...]
    singled_out: tuple[Curve, ...] = field(default=())
    """The same for a token that ``prepare`` selects; empty where the loss selects none."""
    entropy_weight: float = 0.0
    """-d loss / d H at ratio 1, per nat: what the curves do not show. H is the policy's entropy at the token."""

    @property
    def ratios(self) -> tuple[float, ...]:
        """The ratios at which all curves are given."""
        return self.curves[0].ratios


def measure_signature(
    loss: PolicyLoss,
    *,
    ratios: tuple[float, float] | None = None,
    probe: Probe = Probe(),
    points: int = POINTS,
) -> Signature:
    """Measure a loss.

    Args:
        loss: in either form, with its parameters.
        ratios: smallest and largest ratio; None takes ``WIDE``, or a narrow range where all bounds are close to 1.
        probe: the sequence to weigh.
        points: number of ratios, equally spaced in the logarithm.

    Raises:
        ValueError: as ``check_range``.
    """
    check_range(ratios or WIDE, probe)
    grid, scale = _grid(ratios or WIDE, points), Scale(loss, probe)
    curves = tuple(scale.curve(advantage, grid) for advantage in ADVANTAGES)
    if ratios is None and (narrow := _narrow_range(curves)):
        return measure_signature(loss, ratios=narrow, probe=probe, points=points)
    return Signature(
        probe=probe,
        curves=curves,
        singled_out=_singled_out(loss, grid),
        entropy_weight=scale.weigh(1.0, ADVANTAGES[0]).entropy_weight,
    )


class Scale:
    """Weighs a probe under one loss."""

    def __init__(self, loss: PolicyLoss, probe: Probe = Probe()) -> None:
        self.loss, self.probe = loss, probe
        # Asked once: a loss that is composed of others may have to find them.
        self._needs = frozenset(loss.needs(loss.params))

    def weigh(self, ratio: float, advantage: float) -> Weighed:
        """Loss and weight of the probe's tokens at one ratio."""
        beside = () if is_scalar_form(type(self.loss)) else _beside(advantage, self.probe)
        # log pi, log of the other policies, and advantage of the probe and of each sequence beside it.
        moved = math.log(self.probe.probability * ratio)
        values = [(moved, math.log(self.probe.probability), advantage), *((moved + s, moved + s, a) for s, a in beside)]
        log_probs, others, advantages = (
            torch.tensor(values, dtype=torch.float64).T.unsqueeze(-1).repeat(1, 1, self.probe.length)
        )
        log_probs.requires_grad_()
        entropy = torch.full_like(others, _ENTROPY, requires_grad=True)
        batch = self._batch(log_probs, others, entropy, advantages)
        # The sequences beside the probe are there for `prepare` alone: they weigh nothing.
        weights = torch.zeros_like(others)
        weights[0] = 1 / self.probe.length
        total = evaluate_loss(self.loss, batch, weights, 1.0).total
        by_log_prob, by_entropy = torch.autograd.grad(
            total, [log_probs, entropy], allow_unused=True, materialize_grads=True
        )
        # The loss is a mean over the tokens: the sum of their gradients is the mean of what each one has for itself.
        # 0 - x, not -x: no weight is 0, not -0.
        return Weighed(total.item(), 0 - by_log_prob[0].sum().item(), 0 - by_entropy[0].sum().item())

    def curve(self, advantage: float, ratios: tuple[float, ...]) -> Curve:
        """Loss and weight at these ratios, and the breaks between them."""
        weighed = [self.weigh(ratio, advantage) for ratio in ratios]
        weights = tuple(each.weight for each in weighed)
        return Curve(
            advantage=advantage,
            ratios=ratios,
            losses=tuple(each.loss for each in weighed),
            weights=weights,
            breaks=find_breaks(lambda x: self.weigh(math.exp(x), advantage).weight, ratios, weights),
        )

    def _batch(self, log_probs: Tensor, others: Tensor, entropy: Tensor, advantages: Tensor) -> LossBatch:
        inputs: dict[Need, Tensor | None] = {
            Need.OLD_LOG_PROBS: others,
            Need.ROLLOUT_LOG_PROBS: others,
            Need.REF_LOG_PROBS: others,
            Need.ENTROPY: entropy,
            Need.GROUPS: torch.zeros(len(others), dtype=torch.int64),
        }
        parts: dict[str, Any] = {
            "advantages": advantages,
            "mask": torch.ones_like(others, dtype=torch.bool),
            "needs": self._needs,
        }
        with torch.no_grad():
            detached = inputs | {Need.ENTROPY: entropy.detach()}
            prepared = self.loss.prepare(LossBatch(log_probs=log_probs.detach(), inputs=detached, **parts))
        return LossBatch(log_probs=log_probs, inputs=inputs, prepared=prepared, **parts)


def _beside(advantage: float, probe: Probe) -> tuple[tuple[float, float], ...]:
    """The other sequences of the minibatch: log pi relative to that of the probe, and advantage.

    With m for means, the covariance of a token is (log pi - m) (A - m). By hand: in the ordinary minibatch the probe
    has 0.75 A and the last sequence 2.25, the highest; where it is singled out it has 2.25 · 0.75 and the others 0.19.
    """
    if probe.singled_out:
        return ((-3.0 * advantage, 0.0),) * 3
    return ((0.0, -advantage), (0.0, 1.0), (-3.0, -1.0))


def check_range(ratios: tuple[float, float], probe: Probe = Probe()) -> None:
    """Nothing, if a signature can be taken from the first to the second ratio.

    Raises:
        ValueError: the probe or the range is empty, or the probability would exceed 1 in it.
    """
    low, high = ratios
    if probe.length < 1 or not 0 < probe.probability < 1:
        raise ValueError(
            f"the sequence has at least 1 token, of a probability between 0 and 1; got {probe.length} of "
            f"{probe.probability:g}"
        )
    if not 0 < low < high < math.inf:
        raise ValueError(f"ratios go from a positive number to a larger one, got {low:g} to {high:g}")
    if probe.probability * high >= 1:
        raise ValueError(
            f"a token of probability {probe.probability:g} cannot become {high:g} times as likely: "
            f"end the ratios below {1 / probe.probability:g}, or lower the probability"
        )


def _grid(ratios: tuple[float, float], points: int) -> tuple[float, ...]:
    low, high = ratios
    start, step = math.log(low), math.log(high / low) / (points - 1)
    middle = {(points - 1) / 2: 1.0} if math.isclose(low * high, 1) else {}  # exactly, not up to rounding
    return tuple(middle.get(index, math.exp(start + step * index)) for index in range(points))


def _singled_out(loss: PolicyLoss, ratios: tuple[float, ...]) -> tuple[Curve, ...]:
    if type(loss).prepare is PolicyLoss.prepare:
        return ()
    # One token, because a selection may take only some of several equal ones; rare, because one with A < 0 is singled
    # out by others that are e^3 times as likely. Losses that select do not look at the probability itself.
    probe = Probe(length=1, probability=min(1e-3, 0.01 / ratios[-1]), singled_out=True)
    plain, scale = Scale(loss, replace(probe, singled_out=False)), Scale(loss, probe)
    chosen = tuple(scale.curve(advantage, ratios) for advantage in ADVANTAGES)
    same = (
        math.isclose(plain.weigh(ratio, curve.advantage).weight, weight, abs_tol=1e-9)
        for curve in chosen
        for ratio, weight in zip(curve.ratios, curve.weights, strict=True)
    )
    return () if all(same) else chosen


def _narrow_range(curves: Sequence[Curve]) -> tuple[float, float] | None:
    furthest = max((abs(math.log(each.ratio)) for curve in curves for each in curve.breaks), default=0.0)
    if not 1e-6 < furthest < _ZOOM_BELOW:
        return None
    # Five times as far as the furthest bound, in a round number and a little more, so that the ends can be marked.
    power = 10 ** math.floor(math.log10(5 * furthest))
    reach = 1.05 * math.ceil(5 * furthest / power) * power
    return 1 / (1 + reach), 1 + reach
