"""Loads the observers that the configuration names from the entry-point group ``skyrl.plugins``."""

import inspect
from collections.abc import Iterable

import pluggy

from skyrl_core.discovery import Claim
from skyrl_core.errors import PluginLoadError
from skyrl_train.config.plugin_check import OBSERVER_GROUP
from skyrl_train.observers import hookspecs
from skyrl_train.observers.observers import Observer, Observers


def load_observers(claims: Iterable[Claim]) -> Observers:
    """Import and check the observers, in this order, each once.

    Raises:
        PluginLoadError: an observer cannot be imported or created, or has an unknown hook or argument.
    """
    return Observers([make_observer(claim.name, OBSERVER_GROUP.load_claim(claim)) for claim in dict.fromkeys(claims)])


def make_observer(name: str, plugin: object) -> Observer:
    """Check an object or class with hooks and wrap it. A class is instantiated without arguments.

    Raises:
        PluginLoadError: it cannot be created, has no hooks, or has an unknown hook or argument.
    """
    if inspect.isclass(plugin):
        try:
            plugin = plugin()
        except (Exception, SystemExit) as error:
            raise PluginLoadError(
                f"observer {name!r} could not be created without arguments: {type(error).__name__}: {error}"
            ) from error
    # One manager per observer, because pluggy skips the remaining observers when one raises.
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(plugin, name=name)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginLoadError(
            f"observer {name!r} has an invalid hook: {error}\nuse these hooks and arguments: {_signatures()}"
        ) from error
    _refuse_unmarked(name, plugin, manager)
    return Observer(name, manager)


def _refuse_unmarked(name: str, plugin: object, manager: pluggy.PluginManager) -> None:
    """Refuse hooks without the marker: pluggy ignores them, so they would never run."""
    found = {caller.name for caller in manager.get_hookcallers(plugin) or ()}
    unmarked = [hook for hook in hookspecs.HOOKS if callable(getattr(plugin, hook, None)) and hook not in found]
    if unmarked:
        raise PluginLoadError(
            f"observer {name!r}: {', '.join(unmarked)} would never be called; "
            'decorate each hook with pluggy.HookimplMarker("skyrl")'
        )
    if not found:
        raise PluginLoadError(f"observer {name!r} has no hooks; define at least one of {_signatures()}")


def _signatures() -> str:
    return ", ".join(
        f"{hook}({', '.join(inspect.signature(getattr(hookspecs, hook)).parameters)})" for hook in hookspecs.HOOKS
    )
