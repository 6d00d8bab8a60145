"""Loads the observers that the configuration names from the entry-point group ``skyrl.plugins``."""

import inspect
from collections.abc import Iterable

import pluggy

from skyrl_core.discovery import Claim, Guard, PluginCall
from skyrl_core.errors import PluginLoadError
from skyrl_train.config.plugin_check import OBSERVER_GROUP
from skyrl_train.observers import hookspecs
from skyrl_train.observers.observers import Observer, Observers


def load_observers(claims: Iterable[Claim]) -> Observers:
    """Import and check the observers, in this order, each once.

    Raises:
        PluginLoadError: an observer cannot be imported or created, or has an unknown hook or argument.
    """
    return Observers(
        [
            make_observer(claim.name, OBSERVER_GROUP.load_claim(claim), OBSERVER_GROUP.guard(claim))
            for claim in dict.fromkeys(claims)
        ]
    )


def make_observer(name: str, plugin: object, guard: Guard | None = None) -> Observer:
    """Check an object or class with hooks and wrap it. A class is instantiated without arguments.

    ``guard`` guards its code; by default it is that of the class or module.

    Raises:
        PluginLoadError: it cannot be created, has no hooks, or has an unknown hook or argument.
    """
    home = plugin if inspect.isclass(plugin) or inspect.ismodule(plugin) else type(plugin)
    guard = guard or Guard(f"observer {name!r}", getattr(home, "__module__", home.__name__))
    if inspect.isclass(plugin):
        with PluginCall(guard, "could not be created without arguments", kind=PluginLoadError):
            plugin = plugin()
    # One manager per observer, because pluggy skips the remaining observers when one raises.
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    hint = f"use these hooks and arguments: {_signatures()}"
    with PluginCall(guard, "has an invalid hook", kind=PluginLoadError, advice=lambda _: hint):
        manager.register(plugin, name=name)
        manager.check_pending()
    _refuse_unmarked(name, plugin, manager)
    return Observer(name, manager, guard)


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
