"""The parameters of ``sum``, checked per term by the schema of its loss. Imports no torch."""

from collections.abc import Iterator
from typing import Any

from pydantic import Field, ValidationInfo, field_validator, model_validator

from skyrl_core import InvalidParamsError, LossParams, ParamProblem, PluginPolicy, SkyrlError
from skyrl_core.discovery.claim import qualified
from skyrl_core.discovery.plugin_group import ALLOW_ALL
from skyrl_core.parameters.param_validation import as_validation_error
from skyrl_core.parameters.schema_call import as_json_values
from skyrl_core.parameters.strict_model import StrictModel
from skyrl_core.registry.loss_reference import LOSSES
from skyrl_core.registry.resolved_loss import ResolvedLoss

MAX_LEVELS = 8
"""Sums inside each other; one sum can do the same."""
MAX_TERMS = 100
"""Of a sum and all sums inside it."""


class SumTerm(StrictModel):
    """One loss of the sum."""

    loss: str = Field(description="Any installed loss, as in policy_loss_type.")
    weight: float = Field(default=1.0, description="Factor of the term; may be negative, or a schedule.")
    params: dict[str, Any] = Field(default_factory=dict, description="Parameters of the loss, as in its config block.")

    @model_validator(mode="before")
    @classmethod
    def _checked_params(cls, values: Any, info: ValidationInfo) -> Any:
        """The term with the loss's defaults, and with the distribution in its spec."""
        if not isinstance(values, dict) or not isinstance(values.get("loss"), str):
            return values
        policy: PluginPolicy = (info.context or {}).get("policy", ALLOW_ALL)
        params = values.get("params") or {}
        try:
            loss = ResolvedLoss.find(values["loss"], params, policy)
            checked = loss.plan.at(0)
        except InvalidParamsError as error:
            found = [(("params", *problem.path.split(".")), problem) for problem in error.problems]
            raise as_validation_error(cls, found) from error
        except SkyrlError as error:
            unusable = ParamProblem("loss", values["loss"], str(error))
            raise as_validation_error(cls, [(("loss",), unusable)]) from error
        # From here on the name means this one distribution, whatever the policy allows when the loss is built.
        pin = values["loss"].partition("@")[1:]
        spec = values["loss"] if LOSSES.is_registered(loss.claim) else qualified(loss.claim) + "".join(pin)
        return values | {"loss": spec, "params": as_json_values(checked)}


class SumParams(LossParams):
    """Parameters of ``sum``."""

    terms: tuple[SumTerm, ...] = Field(
        default=(SumTerm(loss="dual_clip"),),
        min_length=1,
        description="The losses to add: a list of {loss, weight, params}.",
    )

    @field_validator("terms", mode="before")
    @classmethod
    def _within_bounds(cls, terms: Any) -> Any:
        # Each term is looked up and validated on its own, at each level again.
        levels, count = _size(terms)
        if count > MAX_TERMS:
            raise ValueError(f"has more than {MAX_TERMS} terms, those of sums inside it included; leave some out")
        if levels > MAX_LEVELS:
            raise ValueError(
                f"sums are nested more than {MAX_LEVELS} levels deep: list the terms in one sum, and multiply weights"
            )
        return terms

    @field_validator("terms")
    @classmethod
    def _some_weight(cls, terms: tuple[SumTerm, ...]) -> tuple[SumTerm, ...]:
        if all(term.weight == 0 for term in terms):
            raise ValueError("every weight is 0, so nothing would be learned: give a term another weight")
        return terms


def _size(terms: Any) -> tuple[int, int]:
    """The levels of sums inside each other, and the terms of all of them, counted only as far as it matters."""
    levels = count = 0
    inside = [terms]
    while inside and levels <= MAX_LEVELS and count <= MAX_TERMS:
        levels += 1
        count += sum(len(each) for each in inside if isinstance(each, list | tuple))
        inside = [deeper for each in inside for deeper in _terms_below(each)]
    return levels, count


def _terms_below(terms: Any) -> Iterator[Any]:
    for term in terms if isinstance(terms, list | tuple) else ():
        params = term.get("params") if isinstance(term, dict) else None
        if isinstance(params, dict) and "terms" in params:
            yield params["terms"]
