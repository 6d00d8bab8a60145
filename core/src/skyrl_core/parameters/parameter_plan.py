"""The parameters of a plugin over a run: any number may be a schedule. Imports no torch."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from skyrl_core.errors import InvalidParamsError, ParamProblem
from skyrl_core.parameters.param_validation import validate_params
from skyrl_core.parameters.schedule import Schedule, checked_steps, is_schedule, parse_schedule, schedule_fault

Schema = TypeVar("Schema", bound=BaseModel)
Path = tuple[str | int, ...]
Values = Mapping[str, Any]


class ParamPlan(Generic[Schema]):
    """Parameters that were checked at every knot of their schedules.

    Where the schema expects a number, a value may be a schedule, at any depth: a mapping with the key ``schedule``.
    """

    def __init__(
        self, schema: type[Schema], values: Values, subject: str, context: Any = None, *, scheduled: bool = True
    ) -> None:
        """``subject`` is whose parameters they are, for the message; ``context`` goes to the schema's validators.

        Raises:
            InvalidParamsError: values do not fit, at the start or at some step; ``problems`` has all of them.
        """
        self._validate: Callable[[Values], Schema] = lambda tree: validate_params(schema, tree, subject, context)
        self._values = values
        self.schedules = _schedules(values, subject) if scheduled else {}
        """By the path of the parameter that each stands for."""
        self.steps: tuple[int, ...] = tuple(
            sorted({0, *(step for each in self.schedules.values() for step in checked_steps(each.knots))})
        )
        """The steps that stand for all: what holds at each of them holds at every step."""
        self._known: dict[tuple[float, ...], Schema] = {}
        self._check(subject)

    def at(self, step: int) -> Schema:
        """The parameters at optimizer step ``step``; those of ``steps`` were validated when the plan was made."""
        numbers = self.numbers(step)
        known = self._known.get(tuple(numbers.values()))
        return self._validate(_replaced(self._values, numbers)) if known is None else known

    def numbers(self, step: int) -> dict[Path, float]:
        """What each schedule says at optimizer step ``step``."""
        return {path: schedule.at(step) for path, schedule in self.schedules.items()}

    def document(self) -> dict[str, Any]:
        """The parameters as JSON values, defaults filled in, schedules as mappings: makes an equal plan."""
        document = self.at(0).model_dump(mode="json")
        schedules = {path: each.model_dump(mode="json") for path, each in self.schedules.items()}
        written: dict[str, Any] = _replaced(document, schedules)
        return written

    def _check(self, subject: str) -> None:
        problems: dict[str, ParamProblem] = {}
        for step in self.steps:
            try:
                self._known[tuple(self.numbers(step).values())] = self.at(step)
            except InvalidParamsError as error:
                scheduled = set(map(dotted, self.schedules))
                for problem in error.problems:
                    if problem.path in scheduled:
                        problem = problem._replace(rule=f"{problem.rule} at step {step} of its schedule")
                    problems.setdefault(problem.path, problem)
        if problems:
            raise InvalidParamsError(f"{subject}: the parameters do not fit", list(problems.values()))


def dotted(path: Path) -> str:
    """The path of a parameter as text: ``terms.0.weight``."""
    return ".".join(map(str, path))


def _schedules(values: Values, subject: str) -> dict[Path, Schedule]:
    found: dict[Path, Schedule] = {}
    problems: list[ParamProblem] = []
    for path, value in _walk(values, ()):
        try:
            found[path] = parse_schedule(value)
        except ValidationError as error:
            problems.append(ParamProblem(dotted(path), value, schedule_fault(error)))
    if problems:
        raise InvalidParamsError(f"{subject}: the parameters do not fit", problems)
    return found


def _walk(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """Every schedule in a tree of mappings and lists."""
    if is_schedule(value):
        yield path, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _walk(inner, (*path, key))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _walk(inner, (*path, index))


def _replaced(tree: Any, replacements: Mapping[Path, Any], path: Path = ()) -> Any:
    """The tree with other values at these paths."""
    if path in replacements:
        return replacements[path]
    if isinstance(tree, Mapping):
        return {key: _replaced(inner, replacements, (*path, key)) for key, inner in tree.items()}
    if isinstance(tree, list | tuple):
        return [_replaced(inner, replacements, (*path, index)) for index, inner in enumerate(tree)]
    return tree
