"""Merges files and overrides into one mapping that records the origin of every value."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from skyrl_core.discovery import printable
from skyrl_core.errors import InvalidParamsError, SkyrlError, nearest
from skyrl_core.parameters import MAX_DEPTH, TOO_DEEP, size_fault
from skyrl_train.config.dotted_keys import expand_dotted_keys
from skyrl_train.config.presets import FOLDER, find_preset, is_preset_name, preset_hint, source_name
from skyrl_train.config.problem import Problem
from skyrl_train.config.yaml_text import NOT_YAML, Keys, parse_yaml, text_fault

COMMAND_LINE = "command line"
KEYWORDS = "keyword arguments"
"""The origin of options that Python code passes to ``train``."""
QUICKSTART = FOLDER / "quickstart.yaml"
DEFAULT = "default"
QUICKSTART_DEFAULT = "quickstart default"
DEFAULTS = (DEFAULT, QUICKSTART_DEFAULT)
"""The origins of values that the user did not give."""
MAX_BYTES = 1_000_000


class Sources:
    """The given values of a run. Later files override earlier ones key by key; overrides replace values."""

    def __init__(self, *, quickstart: bool = False) -> None:
        """``quickstart``: start from the quickstart settings for the tiny model instead of no values."""
        self.values: dict[str, Any] = {}
        self.problems: list[Problem] = []
        self.quickstart = quickstart
        self._origins = OriginTree()
        if quickstart:
            self.add_file(QUICKSTART, origin=QUICKSTART_DEFAULT)

    def add_file(self, path: Path, *, origin: str | None = None) -> None:
        """Merge a YAML file or a preset; errors name ``origin`` instead of the file and line if it is given.

        Raises:
            SkyrlError: it cannot be read.
            InvalidParamsError: it is not UTF-8, not YAML, empty, or not a mapping.
        """
        preset, place = find_preset(path), source_name(path)
        document = parse_yaml(_read(preset.file if preset else path), place)
        if document.value is None:
            raise InvalidParamsError(f"{path}: the file is empty; `skyrl config --yaml` prints one with every option")
        if not isinstance(document.value, dict):
            kind = "list" if isinstance(document.value, list) else "single value"
            raise InvalidParamsError(f"{path}: the top level must be options (`name: value`), not a {kind}")
        document = expand_dotted_keys(document, place)
        origins = OriginTree()
        for keys, line in document.lines.items():
            origins.below(keys).place = origin or f"{place}:{line}"
        _merge(self.values, document.value, self._origins, origins)

    def add_values(self, values: Mapping[str, Any], origin: str) -> None:
        """Merge options given as Python values. A key may be dotted, and a value may be a path or a NumPy number."""
        fault = TOO_DEEP if any(str(name).count(".") > MAX_DEPTH for name in values) else size_fault(values)
        if fault:
            raise InvalidParamsError(f"{origin}: {fault}")
        plain = _nested(values)
        origins = OriginTree()
        for keys in _all_keys(plain):
            origins.below(keys).place = origin
        _merge(self.values, plain, self._origins, origins)

    def add_override(self, text: str) -> None:
        """Set `a.b=value`; the value is YAML. A leading `+` or `++`, as in Hydra, is accepted and ignored.

        A malformed override is added to `problems`.
        """
        name, equals, value_text = text.lstrip("+").partition("=")
        keys = tuple(part.strip() for part in name.split("."))
        rule = _override_rule(text, bool(equals), keys, value_text)
        if rule:
            self.problems.append(Problem(key=text, rule=rule, origin=COMMAND_LINE, error=SkyrlError))
            return
        try:
            value = parse_yaml(value_text, COMMAND_LINE).value
        except InvalidParamsError as error:
            rule = f"the value cannot be read: {str(error).removeprefix(f'{COMMAND_LINE}:1: ')}"
            if NOT_YAML in rule:
                rule = (
                    "the value is not valid YAML; quote it for YAML and for the shell, such as '" + name + '="a: b"\''
                )
            self.problems.append(Problem(key=text, rule=rule, origin=COMMAND_LINE))
            return
        self.set(keys, value, COMMAND_LINE)

    def set(self, keys: Keys, value: Any, origin: str) -> None:
        """Replace the value at these keys."""
        section = self.values
        for key in keys[:-1]:
            if not isinstance(section.get(key), dict):
                section[key] = {}
            section = section[key]
        section[keys[-1]] = value
        self._origins.below(keys[:-1]).branches[keys[-1]] = OriginTree(origin)

    def value(self, keys: Keys) -> Any:
        """The value at these keys, or None."""
        value: Any = self.values
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def origin(self, keys: Keys) -> str:
        """Where the value came from: `file:line`, `command line`, `quickstart default`, or `default`."""
        tree, place = self._origins, DEFAULT
        for key in keys:
            if key not in tree.branches:
                break
            tree = tree.branches[key]
            place = tree.place or place
        return place


class OriginTree:
    """Where the value at some keys came from, and the values inside it."""

    __slots__ = ("branches", "place")

    def __init__(self, place: str | None = None) -> None:
        """``place`` is None for a section that was opened for a value inside it."""
        self.place = place
        self.branches: dict[str, OriginTree] = {}

    def below(self, keys: Keys) -> "OriginTree":
        """The tree at these keys, made if it does not exist."""
        tree = self
        for key in keys:
            tree = tree.branches.setdefault(key, OriginTree())
        return tree


def _merge(target: dict[str, Any], new: dict[str, Any], places: OriginTree, new_places: OriginTree) -> None:
    """Merge mappings key by key; each value that is taken over brings the origins of the values inside it."""
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value, places.below((key,)), new_places.branches[key])
        else:
            target[key] = value
            places.branches[key] = new_places.branches[key]


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as plain data, with dotted keys expanded to sections; later keys override earlier ones."""
    nested: dict[str, Any] = {}
    for name, value in values.items():
        *sections, last = str(name).split(".")
        target = nested
        for section in sections:
            if not isinstance(target.get(section), dict):
                target[section] = {}
            target = target[section]
        plain = _plain(value)
        both = isinstance(plain, dict) and isinstance(target.get(last), dict)
        target[last] = _deep_merged(target[last], plain) if both else plain
    return nested


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _nested(value)
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    is_scalar = hasattr(value, "dtype") and getattr(value, "ndim", None) == 0  # NumPy and torch
    return value.item() if is_scalar else value


def _deep_merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    merged = dict(first)
    for name, value in second.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = _deep_merged(merged[name], value) if both else value
    return merged


def _all_keys(values: Mapping[str, Any], at: Keys = ()) -> Iterator[Keys]:
    for name, value in values.items():
        yield (*at, name)
        if isinstance(value, dict):
            yield from _all_keys(value, (*at, name))


def _override_rule(text: str, has_value: bool, keys: Keys, value: str) -> str | None:
    """The rule that the form of an override breaks, or None."""
    if fault := text_fault(text):
        return fault
    if text.startswith("~"):
        return "options cannot be removed; set a value instead, such as `null`"
    if text.endswith((".yaml", ".yml")) and not has_value:
        return f"not an override; to load a file, write --config {text}"
    if not has_value or not all(keys):
        return "not an override; write `section.option=value`"
    if len(keys) > MAX_DEPTH:
        return f"names more than {MAX_DEPTH} sections inside each other; no option is that deep"
    if not value.strip():
        return "no value after `=`; write `null` for none, or two quotes ('') for an empty string"
    return None


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise SkyrlError(f"{printable(str(path), escape=True)}: {_why_missing(path)}") from None
    except IsADirectoryError:
        raise SkyrlError(f"{path}: this is a folder; name a YAML file in it") from None
    except OSError as error:
        raise SkyrlError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise InvalidParamsError(f"{path}: more than {MAX_BYTES // 10**6} MB; this is not a configuration")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidParamsError(f"{path}:{line}: not UTF-8 text (byte 0x{data[error.start]:02x})") from None


def _why_missing(path: Path) -> str:
    if is_preset_name(path):
        return f"neither a file nor a preset has this name{preset_hint(path) or _files_like(path)}"
    return f"no such file{_files_like(path) or preset_hint(path)}"


def _files_like(path: Path) -> str:
    """A hint that names the most similar YAML file in the folder."""
    folder = path.parent
    candidates = sorted(p.name for p in folder.glob("*.y*ml")) if folder.is_dir() else []
    match = nearest(path.name, candidates)
    return f"; did you mean {folder / match}?" if match else ""


def read_sources(
    files: Sequence[Path],
    overrides: Sequence[str],
    *,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    quickstart: bool = False,
) -> Sources:
    """Merge files, settings by origin, and overrides, in order, on top of the quickstart settings if requested."""
    sources = Sources(quickstart=quickstart)
    for file in files:
        sources.add_file(file)
    for origin, values in (settings or {}).items():
        sources.add_values(values, origin)
    for override in overrides:
        sources.add_override(override)
    return sources
