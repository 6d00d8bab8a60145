"""cross_entropy: -log pi, regardless of the advantage."""

import pytest

from skyrl_core.conformance import check_policy_loss
from skyrl_core.losses.cross_entropy import CrossEntropyLoss
from skyrl_core.losses.params import CrossEntropyParams, ReinforceParams
from skyrl_core.losses.reinforce import ReinforceLoss

LOSS = CrossEntropyLoss(CrossEntropyParams())


def test_loss_and_gradient_match_the_formula_whatever_the_advantage(assert_tokens_match) -> None:
    assert_tokens_match(LOSS, lambda token: (-token.p, -1.0))


def test_it_needs_no_other_policy() -> None:
    assert CrossEntropyLoss.needs(CrossEntropyParams()) == frozenset()


def test_the_mean_over_tokens_is_logged(by_ratio) -> None:
    metrics = LOSS.token_losses(by_ratio(LOSS, [1.0, 1.0], [5.0, -5.0])).metrics
    assert metrics["nll_mean"].result() == pytest.approx(1.0)  # by_ratio has log-probs of -1 at ratio 1


class Undeclared(CrossEntropyLoss):
    name = "undeclared"
    Params = CrossEntropyParams
    api_version = 1
    semantics_version = 1
    ignores_advantages = False


class Untrue(ReinforceLoss):
    name = "untrue"
    Params = ReinforceParams
    api_version = 1
    semantics_version = 1
    ignores_advantages = True


@pytest.mark.parametrize("wrong", [Undeclared, Untrue])
def test_ignoring_advantages_must_be_declared_and_true(wrong) -> None:
    assert [failure.rule for failure in check_policy_loss(wrong(wrong.Params())).failures] == ["gradient_sign"]
