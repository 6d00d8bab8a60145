"""Any value as text of bounded size."""

import math

import pytest

from skyrl_core.value_text import bounded, show_value


class Hostile:
    """Raises whatever is asked of it."""

    def __repr__(self):
        raise SystemExit("no repr")


class HostileDict(dict):
    def items(self):
        raise RuntimeError("no items")


def cyclic():
    values = []
    values += [values, values, {"again": values}]
    return values


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        (True, "True"),
        (0.1, "0.1"),
        (math.nan, "nan"),
        ([1, "a"], "[1, 'a']"),
        ((1, {"a": None}), "[1, {'a': None}]"),
        ("\x1b[31m", r"'\x1b[31m'"),
        ("x" * 500, f"'{'x' * 200}…'"),
        (10**50, "<a number of 51 digits>"),
        (-(10**5000), "<a number of 5,001 digits>"),
        (1 << 10**6, "<a number of 301,031 digits>"),
        (b"\x00" * 10**6, None),
        (Hostile(), "<Hostile>"),
        (HostileDict(a=1), "<HostileDict>"),
        ([[[[[[[1]]]]]]], "[[[[[[…]]]]]]"),
        (list(range(1000)), None),
        ({str(i): i for i in range(1000)}, None),
        (cyclic(), None),
        ({10**5000: Hostile()}, "{<a number of 5,001 digits>: <Hostile>}"),
        (object(), None),
        ({"a"}, "['a']"),
    ],
    ids=lambda value: type(value).__name__,  # pytest cannot show some of the values
)
def test_every_value_has_a_short_printable_text(value, text):
    shown = show_value(value)
    assert shown == (text or shown)
    assert shown.isprintable()
    assert len(shown) < 1000


def test_a_value_that_is_cut_says_so():
    assert bounded(list(range(100)))[-1] == "…"
    assert "…" in bounded({str(i): i for i in range(100)})
