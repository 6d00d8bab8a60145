"""The options that a resumed run is compared by: those that change its course, and those that are only noted."""

import hashlib
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from skyrl_core.redaction import redact_text
from skyrl_train.config.options import all_options, all_sections
from skyrl_train.config.schema import RunConfig
from skyrl_train.config.section import EVERY, Section

Effect = Literal["course", "noted", "free"]
"""What another value of an option does to a resumed run: change its course, deserve a message, or neither."""


def effect_of(key: str) -> Effect:
    """The effect of an option, or of a part of one, such as a parameter of a plugin."""
    section: type[Section] = RunConfig
    path = key.split(".")
    for depth, name in enumerate(path):
        inner = all_sections().get(".".join(path[: depth + 1]))
        if inner is None:
            return _effect(section, name)
        section = inner
    return "course"


def _effect(section: type[Section], name: str) -> Effect:
    if {name, *EVERY} & section.free_on_resume:
        return "free"
    return "noted" if {name, *EVERY} & section.noted_on_resume else "course"


def compared_options(config: RunConfig) -> dict[str, Any]:
    """The options that are not free, as JSON values by dotted key; an entry of a mapping has its own key."""
    return dict(_options(config, ""))


def default_of(key: str) -> Any:
    """The default of an option as a JSON value; None if there is no such option."""
    return next((option.default for option in all_options() if option.key == key), None)


def _options(section: Section, prefix: str) -> Iterator[tuple[str, Any]]:
    values = section.model_dump(mode="json")
    for name, field in type(section).model_fields.items():
        shown, value = field.alias or name, getattr(section, name)
        key = f"{prefix}{shown}"
        if isinstance(value, Section):
            yield from _options(value, f"{key}.")
        elif _effect(type(section), shown) != "free":
            yield from _recorded(key, values[shown], free_form=_is_free_form(field.annotation))


def _is_free_form(annotation: Any) -> bool:
    """Whether the option is a mapping with any content, which may hold a secret."""
    return get_origin(annotation) is dict and get_args(annotation)[1] is Any


def _recorded(key: str, value: Any, *, free_form: bool) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and free_form:
        for name, part in value.items():
            yield from _recorded(f"{key}.{name}", part, free_form=True)
    elif free_form and not isinstance(value, (bool, int, float, type(None))):
        # Only recognised again: a checkpoint must not hold a key for a judge.
        yield key, f"sha256 {hashlib.sha256(repr(value).encode()).hexdigest()[:12]}"
    else:
        yield key, redact_text(value) if isinstance(value, str) else value
