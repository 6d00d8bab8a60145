"""The root of the `skyrl` command: finds a subcommand by its entry point, runs it, and maps errors to exit codes."""

import errno
import os
import sys
from collections.abc import Callable, Sequence
from typing import cast

from skyrl_core.discovery.claim import broken_entry_points
from skyrl_core.discovery.install_command import pip_install, requirement_with
from skyrl_core.discovery.installed import installed_distributions
from skyrl_core.discovery.plugin_group import COMMANDS, POLICY_LOSSES, Claim, PluginGroup
from skyrl_core.errors import PluginLoadError, SkyrlError, UnknownPluginError

INTERRUPTED = 130
BROKEN_PIPE = 141
TRAINER_COMMANDS = ("config", "eval", "export", "report", "serve", "train")
"""Commands that the package skyrl-train adds."""
_GROUP = PluginGroup(COMMANDS, "command")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `skyrl` and return the exit code.

    0 success, 2 wrong usage or unknown name, 3 conflict, denied or incompatible plugin, 4 invalid parameters,
    5 a plugin failed to load, 6 a loss breaks the contract, 130 interrupted.
    """
    _open_streams()
    try:
        code = _run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except SkyrlError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except (TypeError, ValueError) as error:
        if not (cause := broken_entry_points()):
            raise
        print(f"error: {error}\n{cause}", file=sys.stderr)
        return PluginLoadError.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        return _code_of_os_error(error)
    return code


def _open_streams() -> None:
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the parent process
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - stays open until the process exits
        stream = getattr(sys, name)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # do not fail on a character that the terminal cannot display


def _code_of_os_error(error: OSError) -> int:
    """Handle an unreadable file and an output that cannot be written; re-raise any other error."""
    if isinstance(error, BrokenPipeError):
        _discard_output()  # the reader, such as `head`, has exited
        return BROKEN_PIPE
    if isinstance(error, PermissionError) and error.filename is not None:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
    elif error.errno == errno.ENOSPC and error.filename is None:
        _discard_output()
        print(f"error: cannot write the output: {error.strerror}", file=sys.stderr)
    else:
        raise error
    return SkyrlError.exit_code


def _discard_output() -> None:
    """Redirect stdout, so that the interpreter does not fail again when it flushes at exit."""
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
        raise SkyrlError(f"unknown option {command!r}: put options after the command; see `skyrl --help`")
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
            f"install it: {pip_install('skyrl-train')}{_or_as_extra()}"
        ) from None


def _help() -> str:
    claims = _GROUP.claims()
    width = max((len(claim.name) for claim in claims), default=0)
    lines = [f"  {claim.name:<{width}}  {_about(claim)}" for claim in claims]
    return "\n".join(
        [
            "usage: skyrl COMMAND [ARGUMENTS]",
            "",
            "Find, check and train with policy losses that are installed as packages.",
            "",
            "commands:",
            *lines,
            *_absent({claim.name for claim in claims}),
            "",
            "Run `skyrl COMMAND --help` for help on a command, `skyrl --version` for the version of skyrl-core.",
        ]
    )


def _absent(present: set[str]) -> list[str]:
    """Return how to install the commands of the trainer; nothing if one is installed."""
    if not present.isdisjoint(TRAINER_COMMANDS):
        return []
    return ["", f"To add {', '.join(TRAINER_COMMANDS)}: {pip_install('skyrl-train')}"]


def _or_as_extra() -> str:
    """The line that installs the trainer as an extra of an installed loss; empty if no loss has such an extra."""
    for distribution in installed_distributions():
        declares_loss = any(each.group == POLICY_LOSSES for each in distribution.declarations)
        requirement = requirement_with("skyrl-train", distribution.name) if declares_loss else None
        if requirement:
            return f"\nor with the extra of the loss: {pip_install(requirement)}"
    return ""


def _about(claim: Claim) -> str:
    return f"{claim.status}: {claim.reason}" if claim.reason else claim.summary


if __name__ == "__main__":
    sys.exit(main())
