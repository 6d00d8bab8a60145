"""dro: a quadratic pull towards the old policy."""

import math

import pytest
from pydantic import ValidationError

from skyrl_core.losses.dro import DroLoss
from skyrl_core.losses.params import DroParams


@pytest.mark.parametrize("beta", [0.05, 2.0])
def test_loss_and_gradient_match_the_formula(assert_tokens_match, beta: float) -> None:
    def oracle(token) -> tuple[float, float]:
        d = token.p - token.o
        return -(token.a * token.p - beta / 2 * d * d), -(token.a - beta * d)

    assert_tokens_match(DroLoss(DroParams(beta=beta)), oracle)


def test_the_gradient_vanishes_where_the_log_ratio_is_the_advantage_over_beta(value_and_gradient) -> None:
    _, gradient = value_and_gradient(DroLoss(DroParams(beta=0.5)), math.exp(0.6), 0.3)
    assert gradient == pytest.approx(0.0, abs=1e-12)


def test_terms_add_up_to_the_loss(ragged) -> None:
    loss = DroLoss(DroParams())
    batch = ragged(loss)
    output = loss.token_losses(batch)
    assert sum(output.terms.values())[batch.mask].tolist() == pytest.approx(output.values[batch.mask].tolist())


@pytest.mark.parametrize("beta", [0, -0.1])
def test_rejects_parameters_out_of_range(beta: float) -> None:
    with pytest.raises(ValidationError, match="beta"):
        DroParams(beta=beta)
