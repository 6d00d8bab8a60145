"""Results on disk: the table of README.md is that of the files, and every file has its page and its script."""

import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def record(script):
    return script("record")


@pytest.fixture
def empty(record, monkeypatch, tmp_path):
    """The module at work in a folder without results."""
    (tmp_path / "results").mkdir()
    (tmp_path / "README.md").write_text(f"# Before\n\n{record.BEGIN}\n{record.END}\n\nAfter.\n")
    monkeypatch.setattr(record, "FOLDER", tmp_path)
    return record


def test_the_readme_has_the_table_of_the_results(record):
    text = (FOLDER / "README.md").read_text()
    between = text.partition(record.BEGIN)[2].partition(record.END)[0]
    assert between.strip() == record.table()


def test_every_result_has_figures_a_page_and_a_script():
    results = FOLDER / "results"
    figures = {path.stem for path in results.glob("*.json")}
    assert figures == {path.stem for path in results.glob("*.md")}
    assert figures
    assert [name for name in figures if not (FOLDER / f"{name}.py").exists()] == []


def test_what_is_recorded_is_on_the_page_in_the_file_and_in_the_table(empty, tmp_path):
    row = empty.Row(measure="one / other", result="1.25", goal="≤ 2", limit="1.10")
    empty.record("listing", [row], "# A title\n\nFigures.\n", packages=("numpy",))
    page = (tmp_path / "results" / "listing.md").read_text()
    assert page.startswith("# A title\n\nFigures.\n\n")
    assert "`python benchmarks/listing.py`" in page
    content = json.loads((tmp_path / "results" / "listing.json").read_text())
    assert content["rows"] == [{"measure": "one / other", "result": "1.25", "goal": "≤ 2", "limit": "1.10"}]
    assert content["versions"].keys() == {"numpy"}
    readme = (tmp_path / "README.md").read_text()
    command = "[`python benchmarks/listing.py`](results/listing.md)"
    assert f"| one / other | 1.25 | ≤ 2 | 1.10 | {command} | a |" in readme
    assert f"- a: {empty.machine()}, numpy " in readme
    assert readme.startswith("# Before\n")
    assert readme.endswith("After.\n")


def test_results_of_one_place_share_its_letter(empty):
    for name, packages in {"one": ("numpy", "torch"), "other": ("numpy",), "two": ("torch", "numpy")}.items():
        empty.record(name, [empty.Row(measure=name, result="1")], "# Title", packages=packages)
    lines = empty.table().splitlines()
    assert [line.rsplit("| ", 1)[1] for line in lines if line.startswith(("| one", "| other", "| two"))] == [
        "a |",
        "b |",
        "a |",
    ]
    assert [line[:4] for line in lines[-2:]] == ["- a:", "- b:"]
