"""Sequences that an update may leave out, because all of their advantages are zero, and whether it is the same then."""

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
    """Whether a step without these sequences is the step with them.

    Args:
        loss: at every step; each of its variants is measured.
        coefficients: of the terms beside the loss, by option, at their highest.

    Raises:
        InvalidParamsError: they have a gradient, or the loss learns from what is logged about them.
    """
    for name, value in coefficients.items():
        if value > 0:
            raise InvalidParamsError(
                f"{OPTION}: trainer.algorithm.{name} = {value:g} has a gradient where the advantage is 0, which would "
                "be left out; set one of the two to its default"
            )
    if loss.loss.adapts:
        raise InvalidParamsError(
            f"{OPTION}: loss {loss.loss.name!r} adapts to the metrics of each step, which would be those of the "
            "trained sequences alone; leave the option out"
        )
    for variant in loss.variants():
        effect = effect_of_zero_advantages(variant)
        if effect is not None:
            raise InvalidParamsError(
                f"{OPTION}: with loss {loss.loss.name!r} sequences without an advantage are a part of the step: "
                f"{effect}; leave the option out"
            )
