"""Tables and paragraphs that fit a terminal."""

from skyrl_core.cli.table import indented, render_table, terminal_width

HEADER = ("NAME", "SUMMARY")


def test_columns_are_aligned_and_the_last_one_is_truncated():
    rows = [("a", "x" * 40), ("long_name", "short")]
    assert render_table(HEADER, rows, ["", "a note"], 40) == [
        "NAME       SUMMARY",
        "a          " + "x" * 28 + "…",
        "long_name  short",
        "    a note",
    ]


def test_the_last_column_goes_below_its_row_if_little_width_is_left():
    rows = [("long_name" * 3, "a summary of some words")]
    assert render_table(HEADER, rows, [""], 40) == ["NAME", "long_name" * 3, "    a summary of some words"]


def test_without_a_width_nothing_is_truncated_or_wrapped():
    long = "word " * 100
    lines = render_table(HEADER, [("a", long)], [long], None)
    assert lines == ["NAME  SUMMARY", f"a     {long}".rstrip(), f"    {long}"]


def test_a_paragraph_is_wrapped_and_indented():
    assert indented("one two three " * 4, 44) == [
        "    one two three one two three one two",
        "    three one two three",
    ]
    assert indented("", 44) == indented("", None) == []


def test_a_pipe_has_no_width_and_columns_sets_one(monkeypatch):
    monkeypatch.setenv("COLUMNS", "72")
    assert terminal_width() == 72
