"""The live display in a notebook: one output of the cell, which is replaced. Needs no ipywidgets."""

import sys
import time
from importlib import import_module
from io import StringIO
from typing import Any

from rich.console import Console, RenderableType

INTERVAL = 0.25
"""Seconds between two updates: each is a message to the browser."""
WIDTH = 100
HTML = '<pre style="white-space:pre;overflow-x:auto;line-height:1.3;font-family:monospace">{code}</pre>'


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


class NotebookDisplay:
    """Shows a renderable below the cell, as HTML with colours or as plain text."""

    def __init__(self, renderable: RenderableType) -> None:
        display: Any = import_module("IPython.display").display  # untyped
        self._handle = display(_bundle(renderable), raw=True, display_id=True)
        self._updated = time.monotonic()

    def update(self, renderable: RenderableType, *, last: bool = False) -> None:
        """Replace what is shown, unless that was done a moment ago and this is not the ``last`` time."""
        if last or time.monotonic() - self._updated >= INTERVAL:
            self._handle.update(_bundle(renderable), raw=True)
            self._updated = time.monotonic()


def _bundle(renderable: RenderableType) -> dict[str, str]:
    console = Console(
        record=True,
        file=StringIO(),
        force_terminal=True,
        force_jupyter=False,
        color_system="truecolor",
        width=WIDTH,
        highlight=False,
    )
    console.print(renderable)
    text = console.export_text(clear=False).rstrip()
    return {"text/html": console.export_html(inline_styles=True, code_format=HTML), "text/plain": text}
