"""docs/tracking.md and the glossary say the same."""

from pathlib import Path

from skyrl_train.tracking.metric_glossary import GLOSSARY

DOCUMENT = Path(__file__).parents[3] / "docs" / "tracking.md"


def test_every_metric_of_the_glossary_is_documented_in_its_words():
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in DOCUMENT.read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
    ]
    documented = [(row[0], row[-1]) for row in rows if len(row) == 3]
    assert documented == [(f"`{entry.pattern}`", entry.meaning) for entry in GLOSSARY]
