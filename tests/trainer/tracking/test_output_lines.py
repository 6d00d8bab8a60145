"""Whatever is printed becomes printable lines of limited length."""

import pytest

from skyrl_train.tracking.output_lines import MAX_BYTES, OutputLines

KEY = "hf_" + "aB3" * 8


def lines_of(*data, colours=False):
    lines = []
    output = OutputLines(lines.append, colours=colours)
    for part in data:
        output.feed(part)
    output.end()
    return lines


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        ("\x1b]52;c;ZXZpbA==\x07clipboard", "clipboard"),
        ("\x1b]0;title\x1b\\title", "title"),
        ("\x1b]52;c;no end", "]52;c;no end"),
        ("\x1b[2J\x1b[H\x1b[3;4Hcleared", "cleared"),
        ("\x1bcreset\x1b(0", "creset(0"),
        ("\x1bP1;2|device\x1b\\", "1;2|device"),
        ("\x9b31mC1 \x9d0;x\x9c", "31mC1 0;x"),
        ("rtl \u202e evil \u2066x\u2069", "rtl  evil x"),
        ("bell\x07\b\b\x0b\x0c\x00", "bell"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("a\tb  Zoë 数 👩\u200d🚀", "a    b  Zoë 数 👩\u200d🚀"),
        ("key " + KEY, "key <redacted>"),
    ],
)
def test_a_line_cannot_control_a_terminal(printed, shown):
    assert lines_of(f"{printed}\n".encode()) == [shown]


def test_colours_are_kept_for_a_display_and_nothing_else_is():
    assert lines_of(b"\x1b[1;31mred\x1b[0m\x1b[2A\x1b]0;t\x07\n", colours=True) == ["\x1b[1;31mred\x1b[0m"]


def test_bytes_that_are_no_text_are_shown_as_escapes():
    assert lines_of(b"raw \xff\xfe\n") == ["raw \\xff\\xfe"]


def test_a_line_that_rewrites_itself_is_shown_in_its_last_state():
    assert lines_of(b"10%\r5", b"0%\r", b"\n1\r2", b"\r\n", b"end") == ["50%", "2", "end"]


def test_output_without_line_breaks_takes_no_memory():
    output, lines = OutputLines([].append), []
    for _ in range(100):
        output.feed(b"x" * 100_000)
    assert len(output._rest) == MAX_BYTES
    output = lines_of(*[b"x" * 100_000] * 100, b"\nnext\n")
    assert output == ["x" * MAX_BYTES + f" ... ({10_000_000 - MAX_BYTES:,} more bytes)", "next"]
    assert lines == []
