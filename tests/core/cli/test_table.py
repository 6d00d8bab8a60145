"""Tables and paragraphs that fit a terminal."""

import pytest

from skyrl_core.cli.table import display_width, indented, render_table, shortened, terminal_width

HEADER = ("NAME", "SUMMARY")


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("short", 5, "short"),
        ("longer", 5, "long…"),
        ("a word cut", 8, "a word…"),
        ("漢字漢字", 8, "漢字漢字"),
        ("漢字漢字", 7, "漢字漢…"),
        ("漢字漢字", 6, "漢字…"),
        ("longer", None, "longer"),
    ],
)
def test_text_is_truncated_to_terminal_cells(text, width, shown):
    assert shortened(text, width) == shown


def test_wide_characters_take_two_cells_and_combining_ones_none():
    assert [display_width(text) for text in ("ab", "漢字", "e\u0301", "")] == [2, 4, 1, 0]


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
