"""The screen of this process: one live display, below everything else that is printed."""

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from skyrl_core.discovery import printable
from skyrl_train.tracking.notebook_display import NotebookDisplay, in_notebook
from skyrl_train.tracking.output_capture import OutputCapture, safe_output
from skyrl_train.tracking.relayed_display import RelayedDisplay
from skyrl_train.tracking.stderr import say
from skyrl_train.tracking.terminal import Terminal

Render = Callable[[], RenderableType]


class Screen:
    """A terminal with a live display, or a plain stream without one."""

    current: "Screen | None" = None
    """The screen that shows what is being loaded, until the run takes it."""

    def __init__(self, file: TextIO | None = None) -> None:
        self.terminal = Terminal(file)
        self.status = ""
        self._render: Render = self._loading
        self._live: Live | None = None
        self._capture: OutputCapture | None = None
        self._relayed: RelayedDisplay | None = None
        self._notebook: NotebookDisplay | None = None
        self._shows_in_notebook = file is None and in_notebook()

    @property
    def takes_output(self) -> bool:
        """Whether the live display will take everything that this process prints, and show it as safe lines."""
        return self.terminal.live and not self.terminal.is_relayed and self.terminal.is_stdout()

    @property
    def live(self) -> bool:
        """Whether there is a live display."""
        return self._live is not None or self._relayed is not None or self._notebook is not None

    def show(self, render: Render) -> None:
        """Show this, four times a second, from now on. Does nothing on a plain stream."""
        self._render = render
        if self._shows_in_notebook and self._notebook is None:
            self._notebook = NotebookDisplay(render())
        if self.live or not self.terminal.live:
            return
        if self.terminal.is_relayed:
            self._relayed = RelayedDisplay(lambda: self._ansi(self._render()))
            return
        if self.takes_output:
            self._capture = OutputCapture(self._captured)
            self.terminal.file = self._capture.terminal
        self._live = Live(
            console=self.terminal,
            get_renderable=lambda: self._render(),
            refresh_per_second=4,
            redirect_stdout=self._capture is None,
            redirect_stderr=self._capture is None,
        )
        self._live.start(refresh=True)

    def refresh(self) -> None:
        """Show the latest state in a notebook; a terminal is refreshed by a thread."""
        if self._notebook is not None:
            self._notebook.update(self._render())

    def print(self, text: RenderableType, style: str = "", *, soft_wrap: bool = False) -> None:
        """Print above the live display, after everything that was printed before."""
        if self._capture is None:
            self.terminal.print(text, style=style, soft_wrap=soft_wrap)
            return
        self._capture.write(self._ansi(text, style, soft_wrap=soft_wrap))

    def close(self, *, keep: bool = True) -> None:
        """Give the terminal and its cursor back; ``keep`` leaves the last state of the live display."""
        if Screen.current is self:
            Screen.current = None
        live, self._live = self._live, None
        capture, self._capture = self._capture, None
        if self._relayed is not None:
            self._relayed.close()
            self._relayed = None
            if keep:
                self.terminal.print(self._render())
        if self._notebook is not None:
            self._notebook.update(self._render() if keep else "", last=True)
            self._notebook, self._shows_in_notebook = None, False
        if capture is not None:
            capture.close()
        if live is not None:
            live.transient = not keep
            live.stop()
        if capture is not None:
            self.terminal.file = sys.stdout
            capture.terminal.close()

    def _ansi(self, text: RenderableType, style: str = "", *, soft_wrap: bool = False) -> str:
        rendered = io.StringIO()
        self.terminal.twin(rendered).print(text, style=style, soft_wrap=soft_wrap)
        return rendered.getvalue()

    def _captured(self, line: str) -> None:
        self.terminal.print(Text.from_ansi(line), soft_wrap=True)

    def _loading(self) -> RenderableType:
        return Spinner("dots", Text(self.status, overflow="ellipsis", no_wrap=True))


def show_loading(what: str) -> None:
    """Show what is being loaded, from the first second on; one line for each on a plain stream."""
    if Screen.current is None:
        Screen.current = Screen()
    screen = Screen.current
    screen.status = printable(f"loading {what} ...", escape=True)
    if screen.terminal.live or screen._shows_in_notebook:
        screen.show(screen._loading)
        screen.refresh()
    else:
        screen.print(Text(screen.status), soft_wrap=True)


@contextmanager
def shown_while(what: str) -> Iterator[None]:
    """Shows what is being done in this block; everything that is printed meanwhile appears as safe lines."""
    screen = Screen()
    if not screen.takes_output:
        say(printable(what, escape=True))
        with safe_output():
            yield
        return
    screen.status = printable(what, escape=True)
    screen.show(screen._loading)
    try:
        yield
    finally:
        screen.close(keep=False)


def stop_loading() -> None:
    """Remove the display, if no run has taken it."""
    if Screen.current is not None:
        Screen.current.close(keep=False)
