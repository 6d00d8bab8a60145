"""Loads the class that a claim names, checks it and makes instances. Imports no torch."""

from collections.abc import Callable
from typing import Any, TypeVar

from skyrl_core.discovery.plugin_call import Guard, PluginCall
from skyrl_core.discovery.plugin_group import Claim, PluginGroup
from skyrl_core.errors import PluginLoadError
from skyrl_core.printable_text import shortened
from skyrl_core.value_text import show_value

Plugin = TypeVar("Plugin", bound=Callable[..., Any])
"""A class or a function, which a decorator returns unchanged."""

Base = TypeVar("Base")

MAX_SHOWN = 120


def class_or_function(plugin: object, base: type[Base]) -> type[Base] | None:
    """The plugin itself if it is a subclass of base, None if it is a function.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(plugin, type):
        if issubclass(plugin, base):
            return plugin
    elif callable(plugin):
        return None
    raise TypeError(f"expected a subclass of {base.__name__} or a function, got {plugin!r}")


def load_class(group: PluginGroup, claim: Claim, base: type[Base]) -> type[Base]:
    """Import the class that a claim names.

    Raises:
        PluginLoadError: its import fails, or it is not a subclass of base.
    """
    plugin = group.load_claim(claim)
    if isinstance(plugin, type) and issubclass(plugin, base):
        return plugin
    raise PluginLoadError(f"{group.kind} {claim}: {claim.value} is {_shown(plugin)}, not a subclass of {base.__name__}")


def construct(guard: Guard, plugin: Callable[[Any], Base], params: Any) -> Base:
    """Make an instance.

    Raises:
        PluginLoadError: its constructor fails.
    """
    with PluginCall(guard, f"could not be constructed with {_shown(params)}", kind=PluginLoadError):
        return plugin(params)


def _shown(plugin: object) -> str:
    # A plugin may be anything: its repr may be long, contain control characters, or fail.
    return shortened(show_value(plugin), MAX_SHOWN)
