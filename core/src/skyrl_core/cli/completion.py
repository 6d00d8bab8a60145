"""Print the code that adds completion to a shell.

The shell then runs `skyrl` for completions. argcomplete speaks the protocol of bash, zsh and fish; it is imported only
when a shell asks.
"""
# PYTHON_ARGCOMPLETE_OK

import os
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from skyrl_core.cli.command_parser import COMPLETING, CommandParser
from skyrl_core.discovery.module_source import source_file
from skyrl_core.discovery.plugin_group import COMMANDS, PluginGroup
from skyrl_core.errors import SkyrlError

MARKER = b"PYTHON_ARGCOMPLETE_OK"
"""The comment that tells argcomplete, and this module, that a program answers shells instead of running."""
EXAMPLES = (
    'eval "$(skyrl completion bash)"         # in ~/.bashrc; zsh: the same in ~/.zshrc, after compinit',
    "skyrl completion fish | source          # in ~/.config/fish/config.fish",
)


def main(argv: Sequence[str]) -> int:
    """Run `skyrl completion` and return the exit code."""
    parser = CommandParser(prog="skyrl completion", description="Print shell code for completion.", examples=EXAMPLES)
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), metavar="SHELL", help="bash, zsh or fish")
    shell = parser.parse_args(argv).shell
    from argcomplete.shell_integration import shellcode

    print(shellcode(["skyrl"], shell=shell))
    return 0


def complete_command_line() -> NoReturn:
    """Answer a shell that completes a `skyrl` command line: a command, or what follows it."""
    from argcomplete.lexers import split_line

    start = int(os.environ[COMPLETING])
    words = split_line(os.environ["COMP_LINE"], int(os.environ["COMP_POINT"]))[3][start - 1 :]
    if len(words) > 1:
        _complete_command(words[1], start)
    answer(_all_commands())


def answer(parser: ArgumentParser) -> NoReturn:
    """Print what can follow on the command line, and exit."""
    import argcomplete

    argcomplete.autocomplete(parser, always_complete_options="long")
    os._exit(0)  # argcomplete has exited already, unless the parser failed


def complete_loss(prefix: str, **_: Any) -> dict[str, str]:
    """The losses that can be selected, with what they do."""
    from skyrl_core.registry.loss_reference import LOSSES

    usable = [claim for claim in LOSSES.claims() if claim.status in ("ok", "untyped")]
    names = {claim.name: claim.summary for claim in usable}
    return names | ({f"{claim.distribution}:{claim.name}": claim.summary for claim in usable} if ":" in prefix else {})


def _complete_command(command: str, start: int) -> NoReturn:
    group = PluginGroup(COMMANDS, "command")
    try:
        claim = group.find(command)
        if _supports_completion(source_file(claim.module)):
            os.environ[COMPLETING] = str(start + 1)  # the command takes the place of the program
            group.load_claim(claim)([])  # type: ignore[operator] # its parser answers the shell
    except SkyrlError:
        pass  # an unknown or broken command has no completions; running it gives the reason
    os._exit(0)


def _supports_completion(file: Path | None) -> bool:
    # A command that does not know the protocol would run.
    return file is not None and MARKER in file.read_bytes()[:1024]


def _all_commands() -> CommandParser:
    parser = CommandParser(prog="skyrl")
    parser.add_argument("--version", action="store_true")
    commands = parser.add_subparsers()
    for claim in PluginGroup(COMMANDS, "command").claims():
        commands.add_parser(claim.name, help=claim.summary)
    return parser
