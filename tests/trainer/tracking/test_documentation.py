"""The table of metrics in docs/tracking.md is the glossary."""

from pathlib import Path

from skyrl_train.tracking.metric_glossary import GLOSSARY

DOCUMENT = Path(__file__).parents[3] / "docs" / "tracking.md"
UNITS = {"number": "", "count": "count", "percent": "fraction", "seconds": "seconds"}


def test_the_documented_metrics_are_those_of_the_glossary_with_their_units_and_meanings():
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in DOCUMENT.read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
    ]
    documented = [row for row in rows if len(row) == 3]
    assert documented == [[f"`{entry.pattern}`", UNITS[entry.unit], entry.meaning] for entry in GLOSSARY]
