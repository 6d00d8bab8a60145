"""Reads and writes YAML with 1.2 scalars (`1e-6` is a float), line numbers and no duplicate keys."""

import math
import re
from dataclasses import dataclass
from typing import Any, NoReturn

import yaml

from skyrl_core.discovery import shortened
from skyrl_core.errors import InvalidParamsError
from skyrl_core.parameters import MAX_DEPTH, MAX_VALUES, TOO_DEEP, TOO_MANY
from skyrl_core.value_text import Abridged, bounded, show_value

Keys = tuple[str, ...]
"""The keys that lead to an option, outermost first."""

NOT_YAML = "not valid YAML"

_TEXT = "tag:yaml.org,2002:str"
_FLOAT = "tag:yaml.org,2002:float"
_INT = "tag:yaml.org,2002:int"
_MERGE = "tag:yaml.org,2002:merge"
_MAX_DIGITS = 100
"""Of an integer: far more than any option takes, and few enough for a message."""
_SCALARS = {
    "tag:yaml.org,2002:bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    _INT: (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    _FLOAT: (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "tag:yaml.org,2002:null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    _MERGE: (r"<<", "<"),
}
_PATTERNS = {tag: re.compile(f"(?:{pattern})$") for tag, (pattern, _) in _SCALARS.items()}


class _Loader(yaml.SafeLoader):
    """PyYAML with the scalars of the YAML 1.2 core schema: `1e-6` is a float, `no` is text, `010` is ten."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def __init__(self, text: str, source: str) -> None:
        super().__init__(text)
        self.source = source
        self._composed = self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """The next node; refuses the first one too many, because the rest of a large text would take minutes."""
        self._composed += 1
        self._depth += 1
        if self._composed > MAX_VALUES or self._depth > MAX_DEPTH:
            self.refuse(
                self.peek_event(),  # type: ignore[no-untyped-call]  # PyYAML does not annotate it
                TOO_MANY if self._composed > MAX_VALUES else TOO_DEEP,
            )
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Replace `<<` by the keys that it merges, unless they multiply."""
        for key, value in node.value:
            if key.tag == _MERGE:
                given = value.value if isinstance(value, yaml.SequenceNode) else [value]
                merged = [each for each in given if isinstance(each, yaml.MappingNode)]
                for each in merged:
                    self.flatten_mapping(each)
                if sum(len(each.value) for each in merged) > MAX_VALUES:
                    self.refuse(key, TOO_MANY)
        super().flatten_mapping(node)

    def refuse(self, at: yaml.Node | yaml.Event, rule: str) -> NoReturn:
        """Raise an InvalidParamsError with the line of a node."""
        mark: Any = at.start_mark
        raise InvalidParamsError(f"{self.source}:{mark.line + 1}: {rule}")

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


for _tag, (_, _first) in _SCALARS.items():
    for _class in (_Loader, _Dumper, _InlineDumper):
        _class.add_implicit_resolver(_tag, _PATTERNS[_tag], _first)
_Dumper.add_representer(str, _Dumper.represent_text)
_InlineDumper.add_representer(str, _InlineDumper.represent_text)
_InlineDumper.add_representer(Abridged, lambda dumper, value: dumper.represent_scalar(_TEXT, str(value)))
_InlineDumper.add_representer(float, lambda dumper, value: dumper.represent_scalar(_FLOAT, _short_float(value)))
_Loader.add_constructor(_INT, _Loader.construct_yaml_int)


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
    loader = _Loader(_printable(text, source), source)
    try:
        node = loader.get_single_node()
        reader = _NodeReader(loader)
        value = None if node is None else reader.read(node, ())
    except yaml.MarkedYAMLError as error:
        raise InvalidParamsError(_syntax_message(error, source)) from error
    except RecursionError:
        raise InvalidParamsError(f"{source}: {TOO_DEEP}") from None
    finally:
        loader.dispose()
    return YamlDocument(value=value, lines=reader.lines if node is not None else {})


def write_yaml(value: Any) -> str:
    """The value as YAML in the order of its keys; `parse_yaml` gives the value back."""
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False))


def inline_yaml(value: Any, width: int = 60) -> str:
    """The value as YAML on one line, shortened to `width` terminal cells; never an error, whatever the value is."""
    options: dict[str, Any] = {"sort_keys": False, "allow_unicode": True, "default_flow_style": True, "width": math.inf}
    line = " ".join(str(yaml.dump(bounded(value), Dumper=_InlineDumper, **options)).removesuffix("...\n").split())
    return shortened(line, width, escape=True)


class _NodeReader:
    """Converts YAML nodes to values and records the line of every key."""

    def __init__(self, loader: _Loader) -> None:
        self.lines: dict[Keys, int] = {}
        self._loader = loader
        self._count = self._depth = 0

    def read(self, node: yaml.Node, path: Keys) -> Any:
        """The value of a node; aliases are written out, so they count each time."""
        self._count += 1
        self._depth += 1
        if self._count > MAX_VALUES or self._depth > MAX_DEPTH:
            self._loader.refuse(node, TOO_MANY if self._count > MAX_VALUES else TOO_DEEP)
        value = self._value(node, path)
        self._depth -= 1
        return value

    def _value(self, node: yaml.Node, path: Keys) -> Any:
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return [self.read(item, path) for item in node.value]
        if isinstance(node, yaml.ScalarNode) and (node.tag in _PATTERNS or node.tag == _TEXT):
            return self._scalar(node)
        self._loader.refuse(node, f"the tag {node.tag} is not supported; remove it")

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        if node.tag == _TEXT:
            self._check_text(node)
        if node.tag in _PATTERNS and not _PATTERNS[node.tag].match(node.value):
            kind = node.tag.rpartition(":")[2]
            self._loader.refuse(node, f"{show_value(node.value)} is no !!{kind}; correct it or remove the tag")
        if node.tag == _INT and len(node.value) > _MAX_DIGITS:
            self._loader.refuse(node, f"the number has more than {_MAX_DIGITS} digits; correct it")
        return self._loader.construct_object(node)

    def _mapping(self, node: yaml.MappingNode, path: Keys) -> dict[str, Any]:
        seen: dict[str, int] = {}
        for key_node, _ in node.value:
            key = self._key(key_node)
            if key in seen:
                name = ".".join((*path, key))
                self._loader.refuse(key_node, f"duplicate key {name}, first on line {seen[key]}; remove one")
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
            self._loader.refuse(node, "a key must be a name, not a list or a mapping")
        self._check_text(node)
        return str(node.value)

    def _check_text(self, node: yaml.ScalarNode) -> None:
        if rule := text_fault(node.value):
            self._loader.refuse(node, rule)


def _short_float(value: float) -> str:
    return repr(value) if math.isfinite(value) else {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}[repr(value)]


def text_fault(text: str) -> str | None:
    """The reason why no file can hold a text: a byte of the command line that is not UTF-8, or an escape in YAML."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"U+{ord(text[error.start]):04X} is half of a character or a byte that is not UTF-8; correct it"
    return None


def _printable(text: str, source: str) -> str:
    """The text; an InvalidParamsError if YAML does not allow one of its characters."""
    found = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if found:
        line = text.count("\n", 0, found.start()) + 1
        raise InvalidParamsError(
            f"{source}:{line}: {NOT_YAML}: the character U+{ord(found.group()):04X} is not allowed"
        )
    return text


def _syntax_message(error: yaml.MarkedYAMLError, source: str) -> str:
    mark = error.problem_mark or error.context_mark
    place = f"{source}:{mark.line + 1}" if mark else source
    reason = " ".join(part for part in (error.context, error.problem) if part)
    hint = "; indent with spaces" if "'\\t'" in reason else ""
    return f"{place}: {NOT_YAML}: {reason}{hint}"
