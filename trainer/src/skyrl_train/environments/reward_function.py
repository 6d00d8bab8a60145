"""An environment made of one reward function: `my_rewards.py:reward`, `my_package.rewards:reward`, or a callable."""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Awaitable, Callable
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from skyrl_core.discovery import Guard, PluginCall
from skyrl_core.errors import PluginLoadError, UnknownPluginError, nearest
from skyrl_train.environments.environment import Completion, Environment, EnvironmentParams, Reward, Row

Function = Callable[[Completion, Row], Reward | Awaitable[Reward]]


class RewardFunction(Environment):
    """Rewards answers with a function ``(completion, row)``; problems come from data files.

    Reward workers import a function that has a reference. A callable without one, such as a function of a notebook, is
    sent to them by value with cloudpickle.
    """

    name = "reward_function"

    def __init__(self, function: Function | None = None, *, reference: str = "") -> None:
        """Take the function itself, or a reference to import it from; ``reference`` names it in messages."""
        super().__init__(EnvironmentParams())
        self.reference = reference
        self._by_value = function is not None
        if function is not None:
            self.function = function  # replaces the cached property
        self.solved_at = getattr(self.function, "solved_at", None)

    @cached_property
    def function(self) -> Function:
        """The function, imported from its reference at the first use in a process."""
        return _imported(self.reference)

    @property
    def is_async(self) -> bool:
        """Whether the function, or the ``__call__`` of an instance, is ``async def``."""
        call = getattr(self.function, "__call__", None)  # noqa: B004 - of an instance
        return inspect.iscoroutinefunction(self.function) or inspect.iscoroutinefunction(call)

    def reward(self, completion: Completion, row: Row) -> Reward | Awaitable[Reward]:
        """Return what the function returns."""
        return self.function(completion, row)

    def __reduce__(self) -> tuple[Any, ...]:
        if not self._by_value:
            return _restored, (self.reference, self.solved_at)
        import cloudpickle  # only for a callable that no reference can import

        return _unpickled, (cloudpickle.dumps(self.function), self.reference, self.solved_at)


def is_function_reference(reference: str) -> bool:
    """Whether a reference has the form ``file.py:name`` or ``package.module:name`` of a function.

    A name without a dot before the colon, such as ``reasoning_gym:leg_counting``, is a task of an environment.
    """
    place, _, name = reference.rpartition(":")
    return name.isidentifier() and ":" not in place and (place.endswith(".py") or "." in place)


def environment_of_function(function: Function) -> RewardFunction:
    """An environment for a callable of this process, as ``train(environment=function)`` takes it.

    Raises:
        PluginLoadError: it cannot be called with a completion and a row.
    """
    reference = getattr(function, "__name__", type(function).__name__)
    _check(function, f"reward function {reference}")
    return RewardFunction(function, reference=reference)


def load_reward_function(reference: str) -> RewardFunction:
    """The environment of ``file.py:name`` or ``module:name``. A relative path starts at the working folder.

    Raises:
        UnknownPluginError: there is no such file, module or function.
        PluginLoadError: its module fails at import, or it cannot be called with a completion and a row.
    """
    place, _, name = reference.rpartition(":")
    absolute = f"{Path(place).expanduser().resolve()}:{name}" if place.endswith(".py") else reference
    environment = RewardFunction(reference=absolute)
    _check(environment.function, f"reward function {reference}")
    return environment


def _imported(reference: str) -> Function:
    place, _, name = reference.rpartition(":")
    home = module_name(Path(place)) if place.endswith(".py") else place
    with PluginCall(Guard(place, home), "cannot be imported", kind=PluginLoadError):
        module = _module(place, reference)
    try:
        return cast(Function, getattr(module, name))
    except AttributeError:
        known = [each for each, value in vars(module).items() if callable(value) and not each.startswith("_")]
        match = nearest(name, known)
        hint = f"did you mean {place}:{match}?" if match else f"define {name}(completion, row) in it"
        raise UnknownPluginError(f"{place} has no function {name!r}; {hint}") from None


def _module(place: str, reference: str) -> ModuleType:
    try:
        if place.endswith(".py"):
            return _module_of_file(Path(place))
        return importlib.import_module(place)
    except FileNotFoundError:
        raise UnknownPluginError(f"{place}: no such file; write FILE.py:FUNCTION or MODULE:FUNCTION") from None
    except ModuleNotFoundError as error:
        if not (isinstance(error.name, str) and error.name and place.startswith(error.name)):
            raise
        hint = f"to use a file, write {place.replace('.', '/')}.py:{reference.rpartition(':')[2]}"
        raise UnknownPluginError(f"no module {place!r} can be imported; {hint}") from error


def module_name(file: Path) -> str:
    """The name under which a file of reward functions is imported."""
    return f"skyrl_reward_{file.stem}_{abs(hash(str(file)))}"


def _module_of_file(file: Path) -> ModuleType:
    """Import a file under a separate name; modules next to it can be imported from it."""
    name = module_name(file)
    if not file.is_file():
        raise FileNotFoundError(file)
    if name not in sys.modules:
        if str(file.parent) not in sys.path:
            sys.path.append(str(file.parent))
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def _check(function: object, what: str) -> None:
    if not callable(function):
        raise PluginLoadError(f"{what} is {type(function).__name__}, not a function: define (completion, row)")
    try:
        inspect.signature(function).bind(object(), object())
    except TypeError as error:
        raise PluginLoadError(f"{what} cannot be called with (completion, row): {error}") from None
    except ValueError:
        return  # a built-in without a signature


def _restored(reference: str, solved_at: float | None) -> RewardFunction:
    environment = RewardFunction(reference=reference)
    environment.solved_at = solved_at
    return environment


def _unpickled(function: bytes, reference: str, solved_at: float | None) -> RewardFunction:
    import cloudpickle

    environment = RewardFunction(cloudpickle.loads(function), reference=reference)
    environment.solved_at = solved_at
    return environment
