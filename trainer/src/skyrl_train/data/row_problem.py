"""The reason why a row cannot be used, and the error that lists such reasons."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from skyrl_core.discovery import printable, shortened
from skyrl_core.errors import SkyrlError
from skyrl_train.config.data_schema import DropReason
from skyrl_train.data.json_record import Numeral, as_data

LISTED = 20
"""Problems that a message lists; the others are counted."""


class DataError(SkyrlError):
    """Rows cannot be read, or a row is invalid."""


@dataclass(frozen=True, kw_only=True)
class RowProblem:
    """A row that cannot be used."""

    place: str  # FILE:LINE, or FILE, row NUMBER
    text: str  # place, column, value, and what is wrong
    reason: DropReason = "invalid"


@dataclass(frozen=True, kw_only=True)
class FaultyRows:
    """The rows of one option that cannot be used."""

    key: str  # data.train, data.evaluation or data.evaluation.NAME
    count: int  # all rows of the option
    problems: Sequence[RowProblem]

    def having(self, reasons: Iterable[DropReason]) -> "FaultyRows":
        """Only the rows with one of these reasons."""
        wanted = set(reasons)
        chosen = [problem for problem in self.problems if problem.reason in wanted]
        return FaultyRows(key=self.key, count=self.count, problems=chosen)

    def without(self, reasons: Iterable[DropReason]) -> "FaultyRows":
        """Only the rows with none of these reasons."""
        return self.having({problem.reason for problem in self.problems} - set(reasons))

    def error_text(self) -> str:
        """The rows and their problems, one on each line."""
        head = f"{len(self.problems):,} of {_rows(self.count)} of {self.key} cannot be used:"
        return "\n".join([head, *(f"  {line}" for line in self.lines())])

    def lines(self) -> list[str]:
        """One line for each problem, up to a limit."""
        lines = [printable(problem.text, escape=True) for problem in self.problems[:LISTED]]
        return lines + ([f"and {len(self.problems) - LISTED:,} more"] if len(self.problems) > LISTED else [])

    def note(self) -> str:
        """The rows that are left out: how many for each reason, and where they are."""
        counts: Mapping[DropReason, int] = {
            reason: sum(problem.reason == reason for problem in self.problems)
            for reason in dict.fromkeys(problem.reason for problem in self.problems)
        }
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in counts.items())
        places = [printable(problem.place, escape=True) for problem in self.problems[:LISTED]]
        more = f" and {len(self.problems) - LISTED:,} more" if len(self.problems) > LISTED else ""
        head = f"{self.key}: {len(self.problems):,} of {_rows(self.count)} left out by data.drop ({reasons})"
        return f"{head}: {'; '.join(places)}{more}"


def raise_faulty(parts: Iterable[FaultyRows]) -> None:
    """Raise one error that lists all problems; return if there are none.

    Raises:
        DataError: there are problems.
    """
    faulty = [part for part in parts if part.problems]
    if faulty:
        reasons = sorted({problem.reason for part in faulty for problem in part.problems})
        advice = f"correct or remove these rows, or leave them out with data.drop=[{','.join(reasons)}]"
        raise DataError("\n".join([*(part.error_text() for part in faulty), advice]))


def shown(value: object) -> str:
    """A value from a row as short JSON, for a message."""
    return shortened(_json(value), 120, escape=True)


def _json(value: object) -> str:
    if isinstance(value, Numeral):
        return str(value)
    try:
        value = as_data(value)  # numerals inside a value as numbers
    except ValueError:
        return repr(value)
    return json.dumps(value, ensure_ascii=False, default=repr)


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"
