"""The root of the `skyrl` command: finds a subcommand by its entry point, runs it, turns errors into exit codes."""

import errno
import os
import sys
from collections.abc import Callable, Sequence
from typing import cast

from skyrl_core.discovery.claim import poison
from skyrl_core.discovery.plugin_group import COMMANDS, Claim, PluginGroup
from skyrl_core.errors import PluginLoadError, SkyrlError, UnknownPluginError

INTERRUPTED = 130
BROKEN_PIPE = 141
TRAINER_COMMANDS = ("config", "eval", "export", "report", "serve", "train")
"""Commands that the package skyrl-train adds."""
_GROUP = PluginGroup(COMMANDS, "command")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `skyrl`; returns the exit code.

    0 ok, 2 wrong usage or unknown name, 3 conflict, denied or incompatible, 4 invalid parameters, 5 a plugin failed to
    load, 6 a loss breaks the contract, 130 interrupted.
    """
    _open_streams()
    try:
        code = _run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except SkyrlError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except (TypeError, ValueError) as error:
        if not (cause := poison()):
            raise
        print(f"error: {error}\n{cause}", file=sys.stderr)
        return PluginLoadError.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        return _refused(error)
    return code


def _open_streams() -> None:
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - it lives as long as the process
        stream = getattr(sys, name)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character is no reason to fail


def _refused(error: OSError) -> int:
    """A file that must not be read, or an output that takes nothing more; any other error is raised."""
    if isinstance(error, BrokenPipeError):
        _give_up_output()  # whoever read it, such as `head`, has enough
        return BROKEN_PIPE
    if isinstance(error, PermissionError) and error.filename is not None:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
    elif error.errno == errno.ENOSPC and error.filename is None:
        _give_up_output()
        print(f"error: the output could not be written: {error.strerror}", file=sys.stderr)
    else:
        raise error
    return SkyrlError.exit_code


def _give_up_output() -> None:
    """The interpreter must not fail once more when it flushes."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: list[str]) -> int:
    command = arguments[0] if arguments else "--help"
    if command in ("-h", "--help"):
        print(_help())
        return 0
    if command == "--version":
        from skyrl_core import __version__

        print(f"skyrl-core {__version__}")
        return 0
    if command.startswith("-"):
        raise SkyrlError(f"unknown option {command!r}: an option of a command goes after it; see `skyrl --help`")
    return _find(command)(arguments[1:])


def _find(command: str) -> Callable[[Sequence[str]], int]:
    """Import the function behind a command.

    Raises:
        UnknownPluginError: no installed package has this command; the message names skyrl-train if it would.
    """
    try:
        return cast(Callable[[Sequence[str]], int], _GROUP.load(command))
    except UnknownPluginError:
        if command not in TRAINER_COMMANDS:
            raise
        raise UnknownPluginError(
            f"`skyrl {command}` needs the package skyrl-train, which is not installed\n"
            f"install it: {sys.executable} -m pip install skyrl-train"
        ) from None


def _help() -> str:
    claims = _GROUP.claims()
    width = max((len(claim.name) for claim in claims), default=0)
    lines = [f"  {claim.name:<{width}}  {_about(claim)}" for claim in claims]
    return "\n".join(
        [
            "usage: skyrl COMMAND [ARGUMENTS]",
            "",
            "Policy losses that are packages: find them, check them, train with them.",
            "",
            "commands:",
            *lines,
            *_absent({claim.name for claim in claims}),
            "",
            "`skyrl COMMAND --help` explains a command, `skyrl --version` says which skyrl-core this is.",
        ]
    )


def _absent(present: set[str]) -> list[str]:
    """What to install for the trainer's commands where none of them is installed."""
    if not present.isdisjoint(TRAINER_COMMANDS):
        return []
    return ["", f"To add {', '.join(TRAINER_COMMANDS)}: {sys.executable} -m pip install skyrl-train"]


def _about(claim: Claim) -> str:
    return f"{claim.status}: {claim.reason}" if claim.reason else claim.summary


if __name__ == "__main__":
    sys.exit(main())
