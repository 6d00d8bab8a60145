"""Observers by name, from the entry-point group ``skyrl.plugins``: only those that the configuration names."""

import inspect
from collections.abc import Iterable

import pluggy

from skyrl_core.claim import Claim
from skyrl_core.errors import PluginLoadError
from skyrl_train.config.plugins import OBSERVER_GROUP
from skyrl_train.observers import hookspecs
from skyrl_train.observers.observers import Observer, Observers


def load_observers(claims: Iterable[Claim]) -> Observers:
    """Import and check the observers, in this order, each once.

    Raises:
        PluginLoadError: an observer cannot be imported or made, or has a hook or argument that does not exist.
    """
    return Observers([make_observer(claim.name, OBSERVER_GROUP.load_claim(claim)) for claim in dict.fromkeys(claims)])


def make_observer(name: str, plugin: object) -> Observer:
    """Check an object or class with hooks and wrap it for use; a class is made without arguments.

    Raises:
        PluginLoadError: it cannot be made, has no hooks, or has a hook or argument that does not exist.
    """
    if inspect.isclass(plugin):
        try:
            plugin = plugin()
        except (Exception, SystemExit) as error:
            raise PluginLoadError(
                f"observer {name!r} could not be made without arguments: {type(error).__name__}: {error}"
            ) from error
    # One manager for each observer: pluggy would skip the others when one of them raises.
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(plugin, name=name)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginLoadError(
            f"observer {name!r} does not fit the hooks: {error}\nhooks and their arguments: {_signatures()}"
        ) from error
    _refuse_unmarked(name, plugin, manager)
    return Observer(name, manager)


def _refuse_unmarked(name: str, plugin: object, manager: pluggy.PluginManager) -> None:
    """pluggy ignores methods without the marker, so that a forgotten one would be a hook that never runs."""
    found = {caller.name for caller in manager.get_hookcallers(plugin) or ()}
    unmarked = [hook for hook in hookspecs.HOOKS if callable(getattr(plugin, hook, None)) and hook not in found]
    if unmarked:
        raise PluginLoadError(
            f"observer {name!r}: {', '.join(unmarked)} would never be called: "
            'decorate with hookimpl = pluggy.HookimplMarker("skyrl")'
        )
    if not found:
        raise PluginLoadError(f"observer {name!r} has no hooks; it may have: {_signatures()}")


def _signatures() -> str:
    return ", ".join(
        f"{hook}({', '.join(inspect.signature(getattr(hookspecs, hook)).parameters)})" for hook in hookspecs.HOOKS
    )
