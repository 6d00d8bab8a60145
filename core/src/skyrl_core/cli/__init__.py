"""The `skyrl` command, the subcommands of the core, and tables and colours for a terminal."""

from skyrl_core.cli.colour import Style, error_line, has_colour, paint, print_safe_tracebacks
from skyrl_core.cli.command_parser import CommandParser
from skyrl_core.cli.completion import complete_loss
from skyrl_core.cli.table import indented, render_table, terminal_width

__all__ = [
    "CommandParser",
    "Style",
    "complete_loss",
    "error_line",
    "has_colour",
    "indented",
    "paint",
    "print_safe_tracebacks",
    "render_table",
    "terminal_width",
]
