"""Skips sequences without an advantage in an update, and checks that the loss permits it."""

from collections.abc import Mapping

from torch import Tensor

from skyrl_core.conformance import effect_of_zero_advantages
from skyrl_core.errors import InvalidParamsError
from skyrl_core.registry import ScheduledLoss
from skyrl_train.step.experience import Experience

OPTION = "trainer.algorithm.skip_zero_advantages"


def learning_rows(minibatch: Experience) -> Tensor:
    """bool [N]: sequences with an advantage that is not zero."""
    return (minibatch.advantages != 0).any(-1)


def check_skipping(loss: ScheduledLoss, coefficients: Mapping[str, float]) -> None:
    """Check that skipping these sequences does not change the step.

    Args:
        loss: each variant of it over the steps is measured.
        coefficients: highest coefficient of each term next to the loss, by option.

    Raises:
        InvalidParamsError: a skipped sequence has a gradient, or the loss adapts to metrics of these sequences.
    """
    for name, value in coefficients.items():
        if value > 0:
            raise InvalidParamsError(
                f"{OPTION}: trainer.algorithm.{name} = {value:g} has a gradient where the advantage is 0, which would "
                "be lost; set one of the two to its default"
            )
    if loss.adapts():
        raise InvalidParamsError(
            f"{OPTION}: loss {loss.loss.name!r} adapts to the metrics of each step, which would be those of the "
            "trained sequences only; remove the option"
        )
    for variant in loss.variants():
        effect = effect_of_zero_advantages(variant)
        if effect is not None:
            raise InvalidParamsError(
                f"{OPTION}: with loss {loss.loss.name!r} sequences without an advantage affect the step: {effect}; "
                "remove the option"
            )
