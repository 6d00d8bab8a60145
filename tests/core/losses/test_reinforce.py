"""reinforce: -A log pi, and no other policy."""

from skyrl_core.losses.params import ReinforceParams
from skyrl_core.losses.reinforce import ReinforceLoss

LOSS = ReinforceLoss(ReinforceParams())


def test_loss_and_gradient_match_the_formula(assert_tokens_match) -> None:
    assert_tokens_match(LOSS, lambda token: (-token.a * token.p, -token.a))


def test_it_needs_no_other_policy() -> None:
    assert ReinforceLoss.needs(ReinforceParams()) == frozenset()
