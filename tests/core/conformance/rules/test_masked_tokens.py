"""A masked token may not receive gradient, even if the value of the loss ignores it."""

import pytest
from tests.core.conformance.example_losses import Correct, declared
from torch import Tensor, cat, zeros_like

from skyrl_core import LossBatch, LossParams
from skyrl_core.conformance.batches import example_batch
from skyrl_core.conformance.rule import Violation
from skyrl_core.conformance.rules.masked_tokens import check_masked_tokens


@declared
class PassesGradientToItsLeftNeighbour(Correct):
    """Adds a term of value 0 whose gradient belongs to the previous token, masked or not."""

    def values(self, batch: LossBatch) -> Tensor:
        previous = cat([zeros_like(batch.log_probs[:, :1]), batch.log_probs[:, :-1]], 1)
        values: Tensor = super().values(batch) + 0.1 * (previous - previous.detach())
        return values


def test_a_masked_token_that_receives_gradient_is_named() -> None:
    # Token 2 of the first sequence is masked, token 3 is not; the mean is over 23 tokens, and 0.1 / 23 = 0.00434783.
    with pytest.raises(Violation) as caught:
        check_masked_tokens(PassesGradientToItsLeftNeighbour(LossParams()), example_batch())
    assert caught.value.found == "d loss / d log_probs[0, 2] is 0.00434783, and this token is masked"
