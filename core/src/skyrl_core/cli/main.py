"""The root of the `skyrl` command: finds a subcommand by its entry point, runs it, and maps errors to exit codes."""
# PYTHON_ARGCOMPLETE_OK

import errno
import os
import sys
from collections.abc import Callable, Sequence
from typing import cast

from skyrl_core.cli.colour import error_line, paint, print_safe_tracebacks
from skyrl_core.cli.table import indented, terminal_width
from skyrl_core.discovery.claim import broken_entry_points, endless_metadata
from skyrl_core.discovery.install_command import pip_install, requirement_with
from skyrl_core.discovery.installed import installed_distributions
from skyrl_core.discovery.plugin_call import PluginCall
from skyrl_core.discovery.plugin_group import COMMANDS, POLICY_LOSSES, Claim, PluginGroup
from skyrl_core.errors import ConformanceError, PluginLoadError, SkyrlError, UnknownPluginError, nearest

INTERRUPTED = 130
BROKEN_PIPE = 141
TRAINER_COMMANDS = ("config", "eval", "export", "report", "serve", "train")
"""Commands that the package skyrl-train adds."""
EXAMPLES = ("skyrl losses list", "skyrl losses show gspo", "skyrl losses new soft_clip", "skyrl train --loss gspo")
_GROUP = PluginGroup(COMMANDS, "command")
_OURS = ("skyrl-core", "skyrl-train")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `skyrl` and return the exit code.

    0 success, 2 wrong usage or unknown name, 3 conflict, denied or incompatible plugin, 4 invalid parameters,
    5 a plugin failed to load, 6 a loss breaks the contract, 130 interrupted.
    """
    _open_streams()
    if argv is None:  # this process is the command
        print_safe_tracebacks()
    if "_ARGCOMPLETE" in os.environ:
        from skyrl_core.cli.completion import complete_command_line

        complete_command_line()
    try:
        code = _run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except SkyrlError as error:
        print(error_line(error), file=sys.stderr)
        return error.exit_code
    except (TypeError, ValueError) as error:
        if not (cause := broken_entry_points()):
            raise
        print(error_line(f"{error}\n{cause}"), file=sys.stderr)
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
        print(error_line(f"{error.filename}: {error.strerror}"), file=sys.stderr)
    elif error.errno == errno.ENOSPC and error.filename is None:
        _discard_output()
        print(error_line(f"cannot write the output: {error.strerror}"), file=sys.stderr)
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
        match = nearest(command, ("--help", "--version"))
        hint = f"did you mean {match}?" if match else "put options after the command; see `skyrl --help`"
        raise SkyrlError(f"unknown option {command!r}; {hint}")
    claim = _find(command)
    if arguments[1:2] != ["list"] and (cause := endless_metadata()):
        raise PluginLoadError(cause)
    function = cast(Callable[[Sequence[str]], int], _GROUP.load_claim(claim))
    return function(arguments[1:]) if claim.distribution in _OURS else _run_plugin(claim, function, arguments[1:])


def _run_plugin(claim: Claim, function: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    """Run a command of another distribution, which may exit by itself.

    Raises:
        PluginError: it raised an exception.
    """
    with PluginCall(_GROUP.guard(claim), "failed"):
        try:
            return function(arguments)
        except (SystemExit, OSError, ConformanceError) as error:
            ended = error
    raise ended


def _find(command: str) -> Claim:
    """The claim behind a command.

    Raises:
        UnknownPluginError: no installed package has this command; the message names skyrl-train if it would.
    """
    try:
        return _GROUP.find(command)
    except UnknownPluginError:
        if command not in TRAINER_COMMANDS:
            _suggest_subcommand(command)
            raise
        raise UnknownPluginError(
            f"`skyrl {command}` needs the package skyrl-train, which is not installed\n"
            f"install it: {pip_install('skyrl-train')}{_or_as_extra()}"
        ) from None


def _suggest_subcommand(word: str) -> None:
    """Raises UnknownPluginError if the word is, nearly, a subcommand of `skyrl losses` but not of `skyrl`."""
    from skyrl_core.cli.losses import subcommands

    match = nearest(word, (*subcommands(), *(claim.name for claim in _GROUP.claims())))
    if match in subcommands():
        raise UnknownPluginError(f"no command is named {word!r}; did you mean `skyrl losses {match}`?") from None


def _help() -> str:
    claims = _GROUP.claims()
    width = max((len(claim.name) for claim in claims), default=0)
    rows = [(paint(f"{claim.name:<{width}}", "cyan"), claim) for claim in claims]
    lines = [line for name, claim in rows for line in _described(name, width, _about(claim))]
    return "\n".join(
        [
            f"{paint('usage:', 'bold')} skyrl COMMAND [ARGUMENTS]",
            "",
            "Find, check and train with policy losses that are installed as packages.",
            "",
            paint("commands:", "bold"),
            *lines,
            *_absent({claim.name for claim in claims}),
            "",
            paint("examples:", "bold"),
            *(f"  {example}" for example in EXAMPLES),
            "",
            "Run `skyrl COMMAND --help` for help on a command, `skyrl --version` for the version of skyrl-core.",
        ]
    )


def _described(name: str, width: int, about: str) -> list[str]:
    columns = terminal_width()
    first, *rest = indented(about, columns, " " * (width + 4)) or [""]
    return [f"  {name}  {first.strip()}", *rest]


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
