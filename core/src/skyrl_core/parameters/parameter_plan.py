"""The parameters of a plugin over a run: any number may be a schedule. Imports no torch."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from skyrl_core.errors import InvalidParamsError, ParamProblem, nearest
from skyrl_core.parameters.loss_params import OpenLossParams
from skyrl_core.parameters.nesting import size_fault
from skyrl_core.parameters.param_validation import validate_params
from skyrl_core.parameters.schedule import Schedule, checked_steps, is_schedule, parse_schedule, schedule_fault
from skyrl_core.parameters.schema_call import as_json_values

Schema = TypeVar("Schema", bound=BaseModel)
Path = tuple[str | int, ...]
Values = Mapping[str, Any]


class ParamPlan(Generic[Schema]):
    """Parameters that are checked at every knot of their schedules.

    Any number, at any depth, may be given as a schedule: a mapping with the key ``schedule``.
    """

    def __init__(
        self, schema: type[Schema], values: Values, subject: str, context: Any = None, *, scheduled: bool = True
    ) -> None:
        """``subject`` names the owner in messages; ``context`` goes to the schema's validators.

        Raises:
            InvalidParamsError: values are invalid, at the start or at some step; ``problems`` lists every problem.
        """
        self._validate: Callable[[Values], Schema] = lambda tree: validate_params(schema, tree, subject, context)
        if fault := size_fault(values):
            raise InvalidParamsError(f"{subject}: invalid parameters", [ParamProblem("", values, fault)])
        self._values = values
        self.schedules = _schedules(values, subject) if scheduled else {}
        """Each schedule by the path of its parameter."""
        self.steps: tuple[int, ...] = tuple(
            sorted({0, *(step for each in self.schedules.values() for step in checked_steps(each.knots))})
        )
        """Representative steps: a bound that holds at each of these holds at every step."""
        self._known: dict[tuple[float, ...], Schema] = {}
        self._check(subject)

    def at(self, step: int) -> Schema:
        """The parameters at optimizer step ``step``; those of ``steps`` were validated when the plan was made."""
        numbers = self.numbers(step)
        known = self._known.get(tuple(numbers.values()))
        # The parameter may be an integer, which takes no 3.0.
        given = {path: int(number) if number.is_integer() else number for path, number in numbers.items()}
        return self._validate(_replaced(self._values, given)) if known is None else known

    def numbers(self, step: int) -> dict[Path, float]:
        """The number of each schedule at optimizer step ``step``."""
        return {path: schedule.at(step) for path, schedule in self.schedules.items()}

    def unread(self) -> list[ParamProblem]:
        """The given parameters that no instance of an open schema has read so far, with the nearest name read."""
        instances = [each for each in self._known.values() if isinstance(each, OpenLossParams)]
        read = frozenset[str]().union(*(each.read_names for each in instances))
        unread = [name for name in self._values if instances and name not in read]
        rule = "the loss never reads it"
        return [ParamProblem(name, self._values[name], rule, nearest(name, read)) for name in unread]

    def document(self) -> dict[str, Any]:
        """The parameters as JSON values, with defaults and schedules; enough to make an equal plan."""
        document = as_json_values(self.at(0))
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
            raise InvalidParamsError(f"{subject}: invalid parameters", list(problems.values()))


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
        raise InvalidParamsError(f"{subject}: invalid parameters", problems)
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
