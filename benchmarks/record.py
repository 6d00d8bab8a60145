"""Results of a benchmark: results/NAME.md for people, results/NAME.json for the table in README.md.

A script measures, prints, and with ``--write`` calls ``record``. ``python benchmarks/record.py`` rebuilds the table.
"""

import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from string import ascii_lowercase

FOLDER = Path(__file__).parent
BEGIN, END = "<!-- table: written by record.py -->", "<!-- end of table -->"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the summary table."""

    measure: str  # what is compared with what
    result: str  # the ratio
    goal: str = ""
    limit: str = ""  # what the machine allows, as the same ratio


def record(name: str, rows: Sequence[Row], text: str, *, packages: Sequence[str] = ("torch",)) -> None:
    """Write the results of ``benchmarks/NAME.py`` and the summary table.

    Args:
        name: of the script, without its suffix.
        rows: for the table.
        text: Markdown with all figures; its first line is a heading.
        packages: the packages whose versions are recorded.
    """
    results = FOLDER / "results"
    facts = {"machine": machine(), "versions": {package: version(package) for package in packages}}
    content = {"rows": [asdict(row) for row in rows], **facts}
    (results / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
    (results / f"{name}.md").write_text(f"{text.strip()}\n\n{_where(facts)} `python benchmarks/{name}.py`\n")
    write_table()


def machine() -> str:
    """The kind of machine, without anything that identifies it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} CPU cores ({platform.machine()}), Python {platform.python_version()}"


def table() -> str:
    """All results by script, each with its command and a letter for its machine; the letters are explained below."""
    lines = ["| measure | result | goal | limit | command, all figures | on |", "|---|---|---|---|---|---|"]
    places: dict[str, str] = {}
    for path in sorted((FOLDER / "results").glob("*.json")):
        content = json.loads(path.read_text())
        place = places.setdefault(_where(content), ascii_lowercase[len(places)])
        command = f"[`python benchmarks/{path.stem}.py`](results/{path.stem}.md)"
        for row in content["rows"]:
            cells = (row["measure"], row["result"], row["goal"], row["limit"], command, place)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"- {place}: {where}" for where, place in places.items())])


def write_table() -> None:
    """Write the table between its marks in README.md."""
    readme = FOLDER / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}")


def _where(facts: dict[str, object]) -> str:
    versions = facts["versions"]
    assert isinstance(versions, dict)
    return f"{facts['machine']}, " + ", ".join(f"{name} {number}" for name, number in sorted(versions.items())) + "."


if __name__ == "__main__":
    write_table()
    sys.exit(0)
