"""The result of computing one reward, and how the value that an environment returned becomes one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real

from skyrl_core.errors import nearest
from skyrl_core.value_text import show_value
from skyrl_train.environments.environment import Environment

LARGEST = 3.4028234e38
"""Rewards are kept in float32."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """The reward of one completion. Without a reward there is no verdict, and the sample is left out of the step."""

    reward: float | None = None
    parts: Mapping[str, float] = field(default_factory=dict)  # several rewards, by name, of which `reward` is the sum
    solved: bool | None = None  # None: the environment does not say
    error: str | None = None  # why the reward could not be computed


def judged(value: object, environment: Environment, reference: str, weights: Mapping[str, float]) -> Score:
    """The score for the value that an environment's ``reward`` returned.

    Args:
        value: a number, None, or a mapping of names to numbers or None.
        environment: says whether the reward solves the problem.
        reference: what messages call the environment.
        weights: of the named rewards; one without a weight has weight 1.

    Raises:
        TypeError: the value is none of these.
        ValueError: a number is not finite in float32, or a weight has no reward of its name.
    """
    if value is None:
        return Score()
    parts = _parts(value, reference) if isinstance(value, Mapping) else {}
    if parts is None:
        return Score()
    if isinstance(value, Mapping):
        _check_weights(weights, parts, reference)
        value = sum(weights.get(name, 1.0) * part for name, part in parts.items())
    reward = _number(value, f"{reference} reward")
    return Score(reward=reward, parts=parts, solved=environment.solved(reward))


def _parts(value: Mapping[object, object], reference: str) -> dict[str, float] | None:
    """The named rewards; None if one of them is None."""
    if not value or not all(isinstance(name, str) for name in value):
        raise TypeError(f"{reference} reward returned {show_value(value)}: it must map names to numbers")
    if any(part is None for part in value.values()):
        return None
    return {str(name): _number(part, f"{reference} reward {name!r}") for name, part in value.items()}


def _check_weights(weights: Mapping[str, float], parts: Mapping[str, float], reference: str) -> None:
    for name in weights:
        if name not in parts:
            match = nearest(name, parts)
            hint = f"; did you mean {match}?" if match else f"; it returns {', '.join(parts)}"
            raise ValueError(f"environment.weights names {name!r}, which the {reference} reward does not return{hint}")


def _number(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{what} returned {show_value(value)} ({type(value).__name__}), not a number")
    number = float(value)
    if not abs(number) <= LARGEST:
        raise ValueError(f"{what} returned {number}, not a finite number in float32")
    return number
