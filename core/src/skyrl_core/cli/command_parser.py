"""The argument parser of every command: suggestions for misspelled words, colours, examples, shell completion."""

import argparse
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NoReturn, TextIO

from skyrl_core.cli.colour import Style, error_line, has_colour, paint
from skyrl_core.errors import did_you_mean, nearest

COMPLETING = "_ARGCOMPLETE"
"""The variable that a shell sets when it asks for completions instead of a run."""
_BAD_CHOICE = re.compile(r"invalid choice: '(?P<given>.*?)' \(choose from")
_HEADING = re.compile(r"^(?:usage|[a-z][\w ]*):(?=$| )", re.MULTILINE)
_OPTIONS = re.compile(r"(?<=^  )-\S+(?:(?: \S+)*, -\S+)*(?<!,)", re.MULTILINE)


class CommandParser(argparse.ArgumentParser):
    """An argument parser whose errors name the nearest word, and whose help ends in examples."""

    answering = False
    """Whether the command line is being completed: argcomplete then parses the incomplete line itself."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **settings: Any) -> None:
        """``examples`` are command lines, each with a comment if it needs one."""
        super().__init__(*args, **settings)
        self.examples = tuple(examples)
        self.color = False  # Python 3.14 would add its colours to ours

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, or answer the shell that asks for completions.

        An unknown option is reported by the subcommand that it was given to, which knows the options that it has.
        """
        self.complete()
        namespace, rest = super().parse_known_args(args, namespace)
        if not CommandParser.answering and (unknown := unknown_option(rest)):
            self.error(self.unknown_message(unknown))
        return namespace, rest

    def parse_intermixed_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse, or answer the shell that asks for completions."""
        self.complete()  # before argparse hides the positional arguments
        return super().parse_intermixed_args(args, namespace)

    def complete(self) -> None:
        """Print the completions of the command line and exit, if a shell asks for them."""
        if COMPLETING in os.environ and not CommandParser.answering:
            CommandParser.answering = True
            from skyrl_core.cli.completion import answer

            answer(self)

    def unknown_message(self, option: str) -> str:
        """The error about an option that does not exist."""
        name = option.partition("=")[0]
        match = nearest(name, self.option_names())
        hint = f"did you mean {match}?" if match else f"`{self.prog} --help` shows the options"
        return f"unknown option {name}; {hint}"

    def option_names(self) -> Iterator[str]:
        """The long options that help shows."""
        for action in self._actions:
            if action.help != argparse.SUPPRESS:
                yield from (name for name in action.option_strings if name.startswith("--"))

    def error(self, message: str) -> NoReturn:
        """Print usage and error, and exit with 2."""
        if bad := _BAD_CHOICE.search(message):
            known = [choice for each in self._actions for choice in _names(each.choices)]
            subject = "command" if any(isinstance(a, argparse._SubParsersAction) for a in self._actions) else "choice"
            hint = did_you_mean(bad["given"], known)
            message = f"no {subject} is named {bad['given']!r}{hint}\navailable: {', '.join(known)}"
        self.print_usage(sys.stderr)
        self.exit(2, f"{error_line(message)}\n")

    def format_help(self) -> str:
        """Help with the examples at its end."""
        lines = [f"  {example}" for example in self.examples]
        return "\n".join([super().format_help(), "examples:", *lines, ""]) if lines else super().format_help()

    def print_help(self, file: Any = None) -> None:
        """Print help in colour, if the stream has it."""
        self._print_message(coloured_help(self.format_help(), file or sys.stdout), file or sys.stdout)


def coloured_help(text: str, stream: TextIO) -> str:
    """Help with headings in bold, options in colour and dim comments, for a stream that has colours."""
    if not has_colour(stream):
        return text
    rules: tuple[tuple[re.Pattern[str], Style], ...] = (
        (re.compile(r"(?<=  )# .*$", re.MULTILINE), "dim"),
        (_OPTIONS, "cyan"),
        (_HEADING, "bold"),
    )
    for pattern, style in rules:
        text = pattern.sub(lambda found, style=style: paint(found[0], style, stream), text)  # type: ignore[misc]
    return text


def unknown_option(rest: Iterable[str]) -> str | None:
    """The first of the unparsed arguments that is an option, not a negative number."""
    for argument in rest:
        if argument == "--":
            return None
        if re.match(r"--?[A-Za-z]", argument):
            return argument
    return None


def _names(choices: Iterable[Any] | None) -> list[str]:
    return [str(choice) for choice in choices or ()]
