"""Measures the signature of a loss: the weight of a token in the update, by its importance ratio.

The weight is -d loss / d log pi of the token: the update raises log pi by the weight times the learning rate. Weights
are comparable across losses. The values of losses are not, because a value behind a stop-gradient is not an objective.
Everything is measured in float64 on the loss itself, so any installed loss has a signature, documented or not.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from skyrl_core.contract.loss_value import evaluate_loss
from skyrl_core.contract.policy_loss import LossBatch, Need, PolicyLoss, is_scalar_form, prepared_by
from skyrl_core.signature.clip_bounds import Break, find_breaks
from skyrl_core.value_text import show_value

ADVANTAGES = (1.0, -1.0)
WIDE = (1 / 8, 8.0)
LONGEST = 4096
"""Tokens of a measured sequence; a curve has thousands of points, each of them a sequence."""
"""A range of ratios that contains the bounds of most losses."""
POINTS = 241
"""Points of a curve; odd, so that a symmetric range includes ratio 1."""

_ZOOM_BELOW = 0.05  # bounds closer to 1 than this, in log-ratio, are indistinguishable in the wide range
_AT_JUMP = 2e-6
_ENTROPY = 1.0  # in nats; any value works


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The measured sequence: ``length`` identical tokens, with the same ratio to every other policy.

    The other policies (old, rollout, reference) agree: each gives the token ``probability``. The minibatch also has a
    few companion sequences, from which ``prepare`` can compute statistics, unless the loss has scalar form.
    """

    length: int = 4
    probability: float = 0.1
    singled_out: bool = False
    """Whether the token has the largest covariance of log pi and A in its minibatch, so that a ``prepare`` that selects
    tokens selects it; otherwise another token has."""


class Weighed(NamedTuple):
    """The result of one evaluation, at one ratio."""

    loss: float
    """Mean over the probe's tokens. An objective only if the formula has no stop-gradient."""
    weight: float
    """-d loss / d log pi, averaged over the probe's tokens."""
    entropy_weight: float
    """-d loss / d H, averaged likewise."""


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
        """Return the weight as (ratio, weight) points, split at jumps, for plotting."""
        points = dict(zip(self.ratios, self.weights, strict=True))
        points |= {each.ratio: each.below for each in self.breaks if each.kind == "kink"}
        ordered, pieces = sorted(points.items()), []
        start: tuple[tuple[float, float], ...] = ()
        for jump in (each for each in self.breaks if each.kind == "jump"):
            # Rounding decides on which side a grid point at the jump lies, so it is left out.
            before = [point for point in ordered if point[0] < jump.ratio * (1 - _AT_JUMP)]
            pieces.append((*start, *before, (jump.ratio, jump.below)))
            ordered = [point for point in ordered if point[0] > jump.ratio * (1 + _AT_JUMP)]
            start = ((jump.ratio, jump.above),)
        return (*pieces, (*start, *ordered))


@dataclass(frozen=True, kw_only=True)
class Signature:
    """The curves of a loss for A = +1 and A = -1, and the probe that they were measured with."""

    probe: Probe
    curves: tuple[Curve, ...]
    singled_out: tuple[Curve, ...] = field(default=())
    """The curves of a token that ``prepare`` selects; empty if the loss selects none."""
    entropy_weight: float = 0.0
    """-d loss / d H at ratio 1, per nat, which the curves do not show; H is the policy's entropy at the token."""

    @property
    def ratios(self) -> tuple[float, ...]:
        """Return the ratios that all curves share."""
        return self.curves[0].ratios


def measure_signature(
    loss: PolicyLoss,
    *,
    ratios: tuple[float, float] | None = None,
    probe: Probe = Probe(),
    points: int = POINTS,
) -> Signature:
    """Measure the signature of a loss.

    Args:
        loss: in either form, with its parameters.
        ratios: smallest and largest ratio; None uses ``WIDE``, or a narrow range if all bounds are close to 1.
        probe: the sequence to measure.
        points: number of ratios, equally spaced in log-ratio.

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
    """Measures a probe under one loss."""

    def __init__(self, loss: PolicyLoss, probe: Probe = Probe()) -> None:
        self.loss, self.probe = loss, probe
        # Called once, because a loss composed of others may have to load them.
        self._needs = frozenset(loss.needs(loss.params))

    def weigh(self, ratio: float, advantage: float) -> Weighed:
        """Measure the loss and weight of the probe's tokens at one ratio."""
        companions = () if is_scalar_form(type(self.loss)) else _companions(advantage, self.probe)
        # log pi, log-prob of the other policies, and advantage, of the probe and of each companion.
        moved = math.log(self.probe.probability * ratio)
        values = [
            (moved, math.log(self.probe.probability), advantage),
            *((moved + s, moved + s, a) for s, a in companions),
        ]
        log_probs, others, advantages = (
            torch.tensor(values, dtype=torch.float64).T.unsqueeze(-1).repeat(1, 1, self.probe.length)
        )
        log_probs.requires_grad_()
        entropy = torch.full_like(others, _ENTROPY, requires_grad=True)
        batch = self._batch(log_probs, others, entropy, advantages)
        # The companions only affect `prepare`: their weight in the loss is 0.
        weights = torch.zeros_like(others)
        weights[0] = 1 / self.probe.length
        total = evaluate_loss(self.loss, batch, weights, 1.0).total
        by_log_prob, by_entropy = torch.autograd.grad(
            total, [log_probs, entropy], allow_unused=True, materialize_grads=True
        )
        # The loss is a mean over tokens, so the sum of their gradients is the mean weight of a token.
        # 0 - x, not -x, because -0.0 would be printed as -0.
        return Weighed(total.item(), 0 - by_log_prob[0].sum().item(), 0 - by_entropy[0].sum().item())

    def curve(self, advantage: float, ratios: tuple[float, ...]) -> Curve:
        """Measure loss and weight at these ratios, and find the breaks between them."""
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
            minibatch = LossBatch(log_probs=log_probs.detach(), inputs=detached, **parts)
            prepared = prepared_by(self.loss, minibatch).tensors
        return LossBatch(log_probs=log_probs, inputs=inputs, prepared=prepared, **parts)


def _companions(advantage: float, probe: Probe) -> tuple[tuple[float, float], ...]:
    """Return the other sequences of the minibatch: log pi relative to the probe, and advantage.

    With m for means, the covariance of a token is (log pi - m) (A - m). By hand: in the ordinary minibatch the probe
    has 0.75 A and the last sequence has 2.25, the largest; if it is singled out, it has 2.25 · 0.75, the others 0.19.
    """
    if probe.singled_out:
        return ((-3.0 * advantage, 0.0),) * 3
    return ((0.0, -advantage), (0.0, 1.0), (-3.0, -1.0))


def check_range(ratios: tuple[float, float], probe: Probe = Probe()) -> None:
    """Check that a signature can be measured from the first to the second ratio.

    Raises:
        ValueError: the probe or the range is empty, or a probability would exceed 1.
    """
    low, high = ratios
    if not 1 <= probe.length <= LONGEST or not 0 < probe.probability < 1:
        raise ValueError(
            f"the sequence must have from 1 to {LONGEST:,} tokens, with a probability between 0 and 1; got "
            f"{show_value(probe.length)} of {probe.probability:g}"
        )
    if not 0 < low < high < math.inf:
        raise ValueError(f"ratios must go from a positive number to a larger one; got {low:g} to {high:g}")
    if probe.probability * high >= 1:
        raise ValueError(
            f"a token of probability {probe.probability:g} cannot become {high:g} times as likely: "
            f"end the ratios below {1 / probe.probability:g}, or lower the probability"
        )


def _grid(ratios: tuple[float, float], points: int) -> tuple[float, ...]:
    low, high = ratios
    start, step = math.log(low), math.log(high / low) / (points - 1)
    middle = {(points - 1) / 2: 1.0} if math.isclose(low * high, 1) else {}  # exactly 1, without rounding
    return tuple(middle.get(index, math.exp(start + step * index)) for index in range(points))


def _singled_out(loss: PolicyLoss, ratios: tuple[float, ...]) -> tuple[Curve, ...]:
    if type(loss).prepare is PolicyLoss.prepare:
        return ()
    # One token, because a selection may take only some of several equal ones. A low probability, because a token with
    # A < 0 is singled out by companions that are e^3 times as likely; the losses that select ignore the probability.
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
    # Five times as far as the furthest bound, rounded up, plus a margin so that the ends can have ticks.
    power = 10 ** math.floor(math.log10(5 * furthest))
    reach = 1.05 * math.ceil(5 * furthest / power) * power
    return 1 / (1 + reach), 1 + reach
