"""Expands dotted keys of a configuration file, such as `trainer.steps: 5`, to nested sections."""

from collections.abc import Mapping
from typing import Any

from skyrl_core.errors import InvalidParamsError
from skyrl_train.config.options import subsections
from skyrl_train.config.schema import RunConfig
from skyrl_train.config.section import Section
from skyrl_train.config.yaml_text import Keys, YamlDocument


def expand_dotted_keys(document: YamlDocument, source: str) -> YamlDocument:
    """The document with the dotted keys of its sections nested. Keys inside parameters and values stay as written.

    Raises:
        InvalidParamsError: an option is given twice, or one key makes a section of another key's value.
    """
    expansion = _Expansion(document.lines, source)
    expansion.section(document.value, RunConfig, (), ())
    return YamlDocument(value=expansion.values, lines=expansion.lines)


class _Expansion:
    def __init__(self, lines: Mapping[Keys, int], source: str) -> None:
        self.values: dict[str, Any] = {}
        self.lines: dict[Keys, int] = {}
        self._written = lines
        self._source = source

    def section(self, values: Mapping[str, Any], schema: type[Section], at: Keys, written: Keys) -> None:
        """Add the keys of a section; ``written`` is its path in the file, ``at`` the one that it means."""
        for key, value in values.items():
            parts, inner = _parts(key), schema
            place = (*written, key)
            for part in parts:
                inner = subsections(inner).get(part) if inner else None  # type: ignore[assignment] # None: no section
            if inner and isinstance(value, dict):
                self._open((*at, *parts), place)
                self.section(value, inner, (*at, *parts), place)
            else:
                self._set((*at, *parts), value, place)

    def _open(self, keys: Keys, place: Keys) -> dict[str, Any]:
        """The section at these keys, made if it does not exist."""
        target, line = self.values, self._written[place]
        for depth, key in enumerate(keys, start=1):
            if target.get(key) is None:
                target[key] = {}
                self.lines[keys[:depth]] = line
            elif not isinstance(target[key], dict):
                self._conflict(keys[:depth], "is a value, so it cannot have options below it", line)
            target = target[key]
        return target

    def _set(self, keys: Keys, value: Any, place: Keys) -> None:
        section, line = self._open(keys[:-1], place), self._written[place]
        old = section.get(keys[-1])
        if isinstance(value, dict) and isinstance(old, dict):
            self._merge(keys, value, place)
        elif old is not None and value is not None:
            self._conflict(keys, "is given twice; remove one", line)
        elif old is None:  # an empty section does not replace one with options
            section[keys[-1]] = value
            self.lines[keys] = line
            self._copy_lines(keys, value, place)

    def _merge(self, keys: Keys, values: Mapping[str, Any], place: Keys) -> None:
        for key, value in values.items():
            self._set((*keys, key), value, (*place, key))

    def _copy_lines(self, keys: Keys, value: Any, place: Keys) -> None:
        """Copy the lines of the keys inside a value; those in a list have the path of the list."""
        for item in value if isinstance(value, list) else ():
            self._copy_lines(keys, item, place)
        for key, inner in value.items() if isinstance(value, dict) else ():
            self.lines[*keys, key] = self._written[*place, key]
            self._copy_lines((*keys, key), inner, (*place, key))

    def _conflict(self, keys: Keys, rule: str, line: int) -> None:
        first = self.lines[keys]
        raise InvalidParamsError(f"{self._source}:{line}: {'.'.join(keys)} {rule} (line {first})")


def _parts(key: str) -> Keys:
    parts = tuple(key.split("."))
    return parts if all(parts) else (key,)
