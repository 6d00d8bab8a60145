"""The `skyrl` command, the subcommands of the core, and tables for a terminal."""

from skyrl_core.cli.table import indented, render_table, terminal_width

__all__ = ["indented", "render_table", "terminal_width"]
