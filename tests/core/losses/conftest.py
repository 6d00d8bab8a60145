"""Batches for the tests of losses: made from ratios, or random with ragged masks and holes."""

import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch

from skyrl_core.contract.policy_loss import LossBatch, Need, PolicyLoss

F64 = torch.float64


class Token(NamedTuple):
    """One unmasked token as an oracle reads it: plain floats."""

    p: float  # log-prob under the policy
    o: float  # under the old policy
    q: float  # under the rollout engine
    a: float  # advantage


# Of the log-prob, the loss of a token, or the losses of a sequence; and the gradient of their sum to each log-prob.
TokenOracle = Callable[[Token], tuple[float, float]]
SequenceOracle = Callable[[list[Token]], tuple[list[float], list[float]]]


@pytest.fixture
def by_ratio() -> Callable[..., LossBatch]:
    """One sequence with these ratios to old and rollout log-probs of -1, in float64."""

    def make(loss: PolicyLoss, ratios: list[float], advantages: list[float]) -> LossBatch:
        log_probs = torch.tensor([[math.log(ratio) - 1 for ratio in ratios]], dtype=F64, requires_grad=True)
        anchor = torch.full_like(log_probs, -1.0)
        return LossBatch(
            log_probs=log_probs,
            advantages=torch.tensor([advantages], dtype=F64),
            mask=torch.ones_like(log_probs, dtype=torch.bool),
            inputs={Need.OLD_LOG_PROBS: anchor, Need.ROLLOUT_LOG_PROBS: anchor},
            needs=loss.needs(loss.params),
        )

    return make


@pytest.fixture
def ragged() -> Callable[..., LossBatch]:
    """Seven sequences of lengths 0 to 9 with holes, NaN in every masked slot, float64; far off policy."""

    def make(loss: PolicyLoss, *, same_advantage: bool = False) -> LossBatch:
        generator = torch.Generator().manual_seed(11)
        mask = torch.arange(9) < torch.tensor([9, 4, 0, 1, 7, 2, 9]).unsqueeze(-1)
        mask[0, 3] = mask[4, 0] = mask[6, 5] = False

        def normal(scale: float) -> torch.Tensor:
            return scale * torch.randn(mask.shape, generator=generator, dtype=F64)

        old = -1 - normal(0.3).abs()
        advantages = normal(1.0)[:, :1].expand_as(mask) if same_advantage else normal(1.0)
        poisoned = [torch.where(mask, t, torch.nan) for t in (old + normal(0.4), advantages, old, old + normal(0.1))]
        return LossBatch(
            log_probs=poisoned[0].requires_grad_(),
            advantages=poisoned[1],
            mask=mask,
            inputs={Need.OLD_LOG_PROBS: poisoned[2], Need.ROLLOUT_LOG_PROBS: poisoned[3]},
            needs=loss.needs(loss.params),
        )

    return make


@pytest.fixture
def extreme() -> Callable[..., LossBatch]:
    """Four sequences with holes, float64; log-ratios to the old policy from -19.5 to 19.5, both signs of A."""

    def make(loss: PolicyLoss, *, same_advantage: bool = False) -> LossBatch:
        moves = torch.tensor([-19.5, -7.0, -1.0, -0.1, 0.0, 0.1, 1.0, 7.0, 19.5], dtype=F64)
        log_ratio = torch.stack([moves, moves, moves.roll(3), moves.roll(4)])
        mask = torch.ones(4, 9, dtype=torch.bool)
        mask[2, 4:] = mask[3, 2] = mask[3, 8] = False
        log_probs = -0.3 - moves.roll(2).abs() / 7 - log_ratio.clamp(max=0).abs()
        old = log_probs - log_ratio
        sign = torch.tensor([1.5, -0.5, 2.0, -1.0], dtype=F64).unsqueeze(-1).expand_as(mask)
        scale = 1.0 if same_advantage else 1 + moves.abs() / 20
        return LossBatch(
            log_probs=torch.where(mask, log_probs, torch.nan).requires_grad_(),
            advantages=sign * scale,
            mask=mask,
            inputs={Need.OLD_LOG_PROBS: old, Need.ROLLOUT_LOG_PROBS: old + 0.25 * log_ratio.sin()},
            needs=loss.needs(loss.params),
        )

    return make


def tokens_of(batch: LossBatch, row: int) -> list[Token]:
    """The unmasked tokens of a sequence; inputs that the loss did not declare are NaN."""

    def column(need: Need) -> list[float]:
        if need not in batch.needs:
            return [math.nan] * int(batch.mask[row].sum())
        return getattr(batch, need.value)[row][batch.mask[row]].tolist()

    own = (t[row][batch.mask[row]].tolist() for t in (batch.log_probs, batch.advantages))
    log_probs, advantages = own
    old, rollout = column(Need.OLD_LOG_PROBS), column(Need.ROLLOUT_LOG_PROBS)
    return [Token(*each) for each in zip(log_probs, old, rollout, advantages, strict=True)]


@pytest.fixture
def assert_sequences_match(ragged, extreme) -> Callable[..., None]:
    """Compare loss and gradient with an oracle of a sequence, to 1e-10, on ragged and on extreme batches."""

    def check(loss: PolicyLoss, oracle: SequenceOracle, *, same_advantage: bool = False) -> None:
        for make in (ragged, extreme):
            batch = make(loss, same_advantage=same_advantage)
            values = loss.token_losses(batch).values
            (gradients,) = torch.autograd.grad(values[batch.mask].sum(), batch.log_probs)
            for row in range(len(batch.mask)):
                expected_values, expected_gradients = oracle(tokens_of(batch, row))
                assert values[row][batch.mask[row]].tolist() == pytest.approx(expected_values, rel=1e-10, abs=1e-10)
                got = gradients[row][batch.mask[row]].tolist()
                assert got == pytest.approx(expected_gradients, rel=1e-10, abs=1e-10)

    return check


@pytest.fixture
def assert_tokens_match(assert_sequences_match) -> Callable[..., None]:
    """The same with an oracle per token, whose loss depends on no other token."""

    def check(loss: PolicyLoss, oracle: TokenOracle) -> None:
        def by_sequence(tokens: list[Token]) -> tuple[list[float], list[float]]:
            pairs = [oracle(token) for token in tokens]
            return [value for value, _ in pairs], [gradient for _, gradient in pairs]

        assert_sequences_match(loss, by_sequence)

    return check


@pytest.fixture
def value_and_gradient(by_ratio) -> Callable[..., tuple[float, float]]:
    """The value and gradient of one token with this ratio to its anchors, whose log-probs are -1."""

    def evaluate(loss: PolicyLoss, ratio: float, advantage: float) -> tuple[float, float]:
        batch = by_ratio(loss, [ratio], [advantage])
        values = loss.token_losses(batch).values
        (gradient,) = torch.autograd.grad(values.sum(), batch.log_probs)
        return values.item(), gradient.item()

    return evaluate
