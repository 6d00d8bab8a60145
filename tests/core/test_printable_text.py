"""Text made safe and short enough to print."""

import pytest

from skyrl_core.printable_text import display_width, printable, shortened


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ünïcödé 漢字", "plain ünïcödé 漢字"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("tab\there", "tab here"),
        ("a\rb\x00c\x9bd\u202ee\u2028f", "abcdef"),
    ],
)
def test_control_characters_and_escape_sequences_are_dropped(text, shown):
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("key\x1b[2J", r"key\x1b[2J"),
        ("a\tb\nc", r"a\tb\nc"),
        ("no-break\xa0space", r"no-break\xa0space"),
        ("half \ud83d", r"half \ud83d"),
    ],
)
def test_they_are_shown_as_escapes_on_request(text, shown):
    assert printable(text, escape=True) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 数 😀", "plain é 数 😀"),
        ("a\tb\r\nc\nd", "a    b\nc\nd"),
        ("\x1b[2J", r"\x1b[2J"),
        ("a\rb\x08\x7f\x9b", r"a\rb\x08\x7f\x9b"),
        ("\u202eabc\u2066\ufeff", r"\u202eabc\u2066\ufeff"),
        ("half \ud83d", r"half \ud83d"),
        ("👩\u200d🚀", "👩\u200d🚀"),
        ("数\u3000学\xa0", "数\u3000学\xa0"),
    ],
)
def test_text_in_lines_keeps_its_line_breaks_spaces_and_joiners(text, shown):
    assert printable(text, escape=True, lines=True) == shown


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("short", 5, "short"),
        ("longer", 5, "long…"),
        ("a word cut", 8, "a word…"),
        ("漢字漢字", 8, "漢字漢字"),
        ("漢字漢字", 7, "漢字漢…"),
        ("漢字漢字", 6, "漢字…"),
        ("a\x1b[2Jbcd", 4, "abcd"),
        ("x" * 10**6, 4, "xxx…"),
        ("", 4, ""),
    ],
)
def test_text_is_cut_to_terminal_cells(text, width, shown):
    assert shortened(text, width) == shown


def test_wide_characters_take_two_cells_and_combining_ones_none():
    assert [display_width(text) for text in ("ab", "漢字", "e\u0301", "")] == [2, 4, 1, 0]


def test_escapes_count_when_a_text_is_cut():
    assert shortened("\x1b[2Jabc", 8, escape=True) == r"\x1b[2Ja"[:7] + "…"
