"""Formats tables and paragraphs for the width of a terminal."""

import shutil
from collections.abc import Sequence

from skyrl_core.cli.colour import Styled, paint
from skyrl_core.printable_text import display_width, shortened

GAP = "  "
MIN_LAST_COLUMN = 20
"""In characters; if less is left for the last column, it goes below its row."""


def terminal_width() -> int | None:
    """Return the width of the terminal, or the variable COLUMNS; None if the output is a file or a pipe."""
    return shutil.get_terminal_size(fallback=(0, 0)).columns or None


def render_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str], width: int | None
) -> list[str]:
    """Format a table, with a note below each row that has one.

    The last column is truncated to the width, or goes below its row if too little is left; the others stay complete.
    The header is bold, and a ``Styled`` cell has its colour, where the output has colours.
    """
    header = [Styled(title, "bold") for title in header]
    sizes = [max(display_width(row[column]) for row in (header, *rows)) for column in range(len(header) - 1)]
    left = None if width is None else width - sum(size + len(GAP) for size in sizes)
    below = left is not None and left < MIN_LAST_COLUMN
    lines = [_line(header[:-1] if below else header, sizes)]
    for row, note in zip(rows, notes, strict=True):
        if below:
            lines += [_line(row[:-1], sizes), *indented(row[-1], width)]
        else:
            lines.append(_line([*row[:-1], row[-1] if left is None else _fitting(row[-1], left)], sizes))
        lines += indented(note, width)
    return lines


def indented(text: str, width: int | None, indent: str = "    ") -> list[str]:
    """Wrap a paragraph at the width and indent it; empty text gives no lines."""
    from textwrap import wrap

    if width is None:
        return [indent + text] if text else []
    # Names and paths are not broken, so that they can be copied.
    return wrap(
        text,
        max(width, 40),
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _line(cells: Sequence[str], sizes: Sequence[int]) -> str:
    # The last column has no size: nothing follows it.
    padded = [painted(cell) + " " * (size - display_width(cell)) for cell, size in zip(cells, sizes, strict=False)]
    return GAP.join([*padded, *map(painted, cells[len(sizes) :])]).rstrip()


def _fitting(cell: str, width: int) -> str:
    short = shortened(cell, width)
    return Styled(short, cell.style) if isinstance(cell, Styled) else short


def painted(cell: str) -> str:
    """A cell in its colour, if it has one and the output shows colours."""
    return paint(cell, cell.style) if isinstance(cell, Styled) else cell
