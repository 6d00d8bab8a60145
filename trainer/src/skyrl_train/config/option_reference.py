"""The reference of all options: as a table for a terminal, as YAML, as Markdown."""

import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby

from skyrl_train.config.options import Option, all_options, all_sections
from skyrl_train.config.yaml_text import inline_yaml

INDENT = "      "
HEADER = ("KEY", "TYPE", "DEFAULT", "RANGE")


def find_options(prefix: str) -> list[Option]:
    """The options whose dotted key starts with the prefix, or else those with this name in any section."""
    prefix = prefix.strip(".")
    found = [option for option in all_options() if option.key.startswith(prefix)]
    return found or [option for option in all_options() if option.key.rpartition(".")[2] == prefix]


def search_options(words: Sequence[str]) -> list[Option]:
    """The options whose key, choices or description contain every word, whatever the case."""
    wanted = [word.lower().replace("-", "_") for word in words]
    return [option for option in all_options() if all(word in _searched(option) for word in wanted)]


def _searched(option: Option) -> str:
    text = f"{option.key} {_text(option)}".lower()
    return f"{text} {text.replace('-', '_').replace(' ', '_')}"


def write_table(options: Sequence[Option], width: int) -> str:
    """The options by section, for a terminal of `width` columns: a table row, then the description."""
    lines: list[str] = []
    for section, members in _by_section(options):
        rows = [HEADER, *map(_cells, members)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
        lines += ["", *textwrap.wrap(f"{section or 'the run'}: {_summary(section)}", width), "", _row(HEADER, widths)]
        for option in members:
            lines.append(_row(_cells(option), widths))
            lines += textwrap.wrap(_text(option), width, initial_indent=INDENT, subsequent_indent=INDENT)
    return "\n".join(lines[1:]) + "\n"


def write_markdown(options: Sequence[Option]) -> str:
    """The options by section as Markdown tables."""
    lines: list[str] = []
    for section, members in _by_section(options):
        lines += ["", f"### {f'`{section}`' if section else 'The run'}", "", _summary(section), ""]
        lines += ["| key | type | default | range | description |", "|---|---|---|---|---|"]
        for option in members:
            key, kind, default, allowed = _cells(option)
            cells = (f"`{key}`", kind, f"`{default}`", allowed, _text(option))
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines[1:]) + "\n"


def write_commented_yaml(options: Sequence[Option]) -> str:
    """A configuration with each option at its default, below its description."""
    lines = ["# Every option with its default."]
    open_keys: list[str] = []
    for section, members in _by_section(options):
        path = section.split(".") if section else []
        for depth, name in enumerate(path):
            if open_keys[: depth + 1] != path[: depth + 1]:
                indent = "  " * depth
                lines += ["", f"{indent}# {_summary('.'.join(path[: depth + 1]))}", f"{indent}{name}:"]
                open_keys = path[: depth + 1]
        for option in members:
            lines += _yaml_lines(option, "  " * len(path))
    return "\n".join(lines) + "\n"


def _yaml_lines(option: Option, indent: str) -> list[str]:
    key, kind, default, allowed = _cells(option)
    if isinstance(option.default, float) and "." not in default:
        default = default.replace("e", ".0e")  # readers of YAML 1.1 take 1e-06 for text
    facts = "" if option.choices else f" ({kind}{f', {allowed}' if allowed else ''})"
    comment = textwrap.wrap(_text(option) + facts, 110, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
    return [*comment, f"{indent}{key.rpartition('.')[2]}: {default}"]


def _by_section(options: Sequence[Option]) -> Iterator[tuple[str, list[Option]]]:
    for section, members in groupby(options, key=lambda option: option.section):
        yield section, list(members)


def _summary(section: str) -> str:
    schema = all_sections().get(section)
    if schema is None:
        return f"The parameters of {section.rpartition('.')[2]}."
    return " ".join((schema.__doc__ or "").split())


def _cells(option: Option) -> tuple[str, str, str, str]:
    return option.key, option.type, inline_yaml(option.default), option.range


def _text(option: Option) -> str:
    """The description, followed by the choices if the option has any."""
    return f"{option.description} One of: {', '.join(option.choices)}." if option.choices else option.description


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  " + "  ".join(cell.ljust(size) for cell, size in zip(cells, widths, strict=True)).rstrip()
