"""Model output is made safe to show."""

import pytest

from skyrl_train.tracking.printable import printable


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
    ],
)
def test_only_invisible_characters_are_escaped(text, shown):
    assert printable(text) == shown


def test_long_text_is_shortened_and_the_rest_counted():
    assert printable("x" * 1500, limit=4) == "xxxx … (1,496 more characters)"
    assert printable("xxxx", limit=4) == "xxxx"
