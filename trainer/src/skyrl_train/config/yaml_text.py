"""Reads and writes YAML with 1.2 scalars (`1e-6` is a float), line numbers and no duplicate keys."""

import math
import re
from dataclasses import dataclass
from typing import Any

import yaml

from skyrl_core.discovery import shortened
from skyrl_core.errors import InvalidParamsError

Keys = tuple[str, ...]
"""The keys that lead to an option, outermost first."""

MAX_NODES = 100_000
"""Aliases of aliases can expand a small file without bound; no real configuration has this many values."""

_TEXT = "tag:yaml.org,2002:str"
_FLOAT = "tag:yaml.org,2002:float"
_SCALARS = {
    "tag:yaml.org,2002:bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "tag:yaml.org,2002:int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    _FLOAT: (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "tag:yaml.org,2002:null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "tag:yaml.org,2002:merge": (r"<<", "<"),
}


class _Loader(yaml.SafeLoader):
    """PyYAML with the scalars of the YAML 1.2 core schema: `1e-6` is a float, `no` is text, `010` is ten."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        text = self.construct_scalar(node)
        return int(text, 0 if text[:2] in ("0x", "0o") else 10)


class _Dumper(yaml.SafeDumper):
    """Quotes every string that YAML 1.1 or 1.2 would read as another type."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        # Without quotes, Unicode line breaks (U+0085, U+2028) would read back as ordinary ones.
        return self.represent_scalar(_TEXT, text, style=None if text.isprintable() else '"')


class _InlineDumper(_Dumper):
    """Writes 1e-06 as users do. In files it is 1.0e-06, which YAML 1.1 readers take for a number too."""


for _tag, (_pattern, _first) in _SCALARS.items():
    _Loader.add_implicit_resolver(_tag, re.compile(f"(?:{_pattern})$"), _first)
    _Dumper.add_implicit_resolver(_tag, re.compile(f"(?:{_pattern})$"), _first)
    _InlineDumper.add_implicit_resolver(_tag, re.compile(f"(?:{_pattern})$"), _first)
_Dumper.add_representer(str, _Dumper.represent_text)
_InlineDumper.add_representer(str, _InlineDumper.represent_text)
_InlineDumper.add_representer(float, lambda dumper, value: dumper.represent_scalar(_FLOAT, _short_float(value)))
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


@dataclass(frozen=True, kw_only=True)
class YamlDocument:
    """The value of a YAML text, and the line number (from 1) of each key."""

    value: Any
    lines: dict[Keys, int]


def parse_yaml(text: str, source: str) -> YamlDocument:
    """The parsed text.

    Args:
        text: YAML; an empty text is the value None.
        source: the file name, for messages.

    Raises:
        InvalidParamsError: the text is not YAML, or a key is duplicate or not a scalar; the message has the line.
    """
    loader = _Loader(_printable(text, source))
    try:
        node = loader.get_single_node()
        reader = _NodeReader(loader, source)
        value = None if node is None else reader.read(node, ())
    except yaml.MarkedYAMLError as error:
        raise InvalidParamsError(_syntax_message(error, source)) from error
    except RecursionError:
        raise InvalidParamsError(f"{source}: nested too deeply, or an alias that contains itself") from None
    finally:
        loader.dispose()
    return YamlDocument(value=value, lines=reader.lines if node is not None else {})


def write_yaml(value: Any) -> str:
    """The value as YAML in the order of its keys; `parse_yaml` gives the value back."""
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False))


def inline_yaml(value: Any, width: int = 60) -> str:
    """The value as YAML on one line, shortened to `width` terminal cells."""
    options: dict[str, Any] = {"sort_keys": False, "allow_unicode": True, "default_flow_style": True, "width": math.inf}
    line = " ".join(str(yaml.dump(value, Dumper=_InlineDumper, **options)).removesuffix("...\n").split())
    return shortened(line, width, escape=True)


class _NodeReader:
    """Converts YAML nodes to values and records the line of every key."""

    def __init__(self, loader: _Loader, source: str) -> None:
        self.lines: dict[Keys, int] = {}
        self._loader = loader
        self._source = source
        self._count = 0

    def read(self, node: yaml.Node, path: Keys) -> Any:
        self._count += 1
        if self._count > MAX_NODES:
            raise InvalidParamsError(
                f"{self._source}: more than {MAX_NODES} values because aliases multiply; write them out"
            )
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return [self.read(item, path) for item in node.value]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        raise InvalidParamsError(f"{self._at(node)}: the tag {node.tag} is not supported; remove it")

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        try:
            return self._loader.construct_object(node)
        except ValueError as error:  # a tag such as !!int on a word, or a number with thousands of digits
            raise InvalidParamsError(f"{self._at(node)}: {error}") from error

    def _mapping(self, node: yaml.MappingNode, path: Keys) -> dict[str, Any]:
        seen: dict[str, int] = {}
        for key_node, _ in node.value:
            key = self._key(key_node)
            if key in seen:
                name = ".".join((*path, key))
                raise InvalidParamsError(
                    f"{self._at(key_node)}: duplicate key {name}, first on line {seen[key]}; remove one"
                )
            seen[key] = key_node.start_mark.line + 1
        self._loader.flatten_mapping(node)  # puts keys from `<<` first, so that explicit keys override them
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node)
            self.lines[*path, key] = key_node.start_mark.line + 1
            values[key] = self.read(value_node, (*path, key))
        return values

    def _key(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise InvalidParamsError(f"{self._at(node)}: a key must be a name, not a list or a mapping")
        return str(node.value)

    def _at(self, node: yaml.Node) -> str:
        return f"{self._source}:{node.start_mark.line + 1}"


def _short_float(value: float) -> str:
    return repr(value) if math.isfinite(value) else {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}[repr(value)]


def _printable(text: str, source: str) -> str:
    """The text; an InvalidParamsError if YAML does not allow one of its characters."""
    found = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if found:
        line = text.count("\n", 0, found.start()) + 1
        raise InvalidParamsError(f"{source}:{line}: the character U+{ord(found.group()):04X} is not allowed in YAML")
    return text


def _syntax_message(error: yaml.MarkedYAMLError, source: str) -> str:
    mark = error.problem_mark or error.context_mark
    place = f"{source}:{mark.line + 1}" if mark else source
    reason = " ".join(part for part in (error.context, error.problem) if part)
    hint = "; indent with spaces" if "'\\t'" in reason else ""
    return f"{place}: not valid YAML: {reason}{hint}"
