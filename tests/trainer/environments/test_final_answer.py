from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyrl_train.environments.final_answer import last_number, parse_answer, stated_after_marker

ONE_NUMBER = [
    ("18", 18),
    ("0", 0),
    ("18.", 18),
    ("18.00", 18),
    ("0.5", Fraction(1, 2)),
    (".5", Fraction(1, 2)),
    ("-7", -7),
    ("+7", 7),
    ("\u22127", -7),
    ("\u20137", -7),
    ("1,234", 1234),
    ("12,345,678", 12_345_678),
    ("1,234.50", Fraction(2469, 2)),
    ("1\u202f234", 1234),
    ("1\u00a0234", 1234),
    ("1'234", 1234),
    ("1{,}234", 1234),
    (r"1\,234", 1234),
    ("$18", 18),
    ("$ 18", 18),
    ("18$", 18),
    (r"\$18", 18),
    ("-$18", -18),
    ("$-18", -18),
    ("€3.50", Fraction(7, 2)),
    ("£1,000", 1000),
    ("USD 18", 18),
    ("Rs.18", 18),
    ("25%", 25),
    (r"25\%", 25),
    ("3/4", Fraction(3, 4)),
    ("1 1/2", Fraction(3, 2)),
    (r"\frac{3}{4}", Fraction(3, 4)),
    (r"-\dfrac{1}{2}", Fraction(-1, 2)),
    (r"1\frac{1}{2}", Fraction(3, 2)),
    (r"\boxed{18}", 18),
    (r"\boxed{\$1,800}", 1800),
    (r"\boxed{\frac{1}{3}}", Fraction(1, 3)),
    ("$18$", 18),
    ("**18**", 18),
    ("**-18**", -18),
    ("(18)", 18),
    ("18 dollars.", 18),
    ("$18/hour", 18),
    ("18 km/h", 18),
    ("18-year-old", 18),
    ("18 (they had more)", 18),
    ("The answer is 18 apples!", 18),
    ("x = 18", 18),
    ("3 + 15 = 18", 18),
    ("It is...18", 18),
    (r"18\text{ cm}", 18),
]

NOT_ONE_NUMBER = [
    "",
    "none",
    "$",
    "20-2",
    "3 + 15",
    "3 x = 4 * 5",
    "10 - 12",
    "5, 6",
    "5 6",
    "1,5",
    "1.234,50",
    "1,234,56",
    "1.2.3",
    "5:30",
    "1e3",
    "2^3",
    "1/0",
    "1/2/3",
    "18$ 5",
    r"2\sqrt{3}",
    r"\sqrt{12}",
    r"3 \cdot 6",
    "9" * 101,
]


@pytest.mark.parametrize(("text", "value"), ONE_NUMBER)
def test_a_statement_of_one_number_is_that_number_exactly(text, value):
    number = parse_answer(text)
    assert number is not None
    assert number.value == value


@pytest.mark.parametrize("text", NOT_ONE_NUMBER)
def test_a_statement_of_no_number_or_several_is_not_a_number(text):
    assert parse_answer(text) is None


@pytest.mark.parametrize(
    ("text", "at_end"),
    [("18", True), ("18.", True), ("1,", True), ("$18", True), ("18 ", False), ("18 eggs", False), ("18\n", False)],
)
def test_at_end_is_true_if_digits_could_be_missing(text, at_end):
    assert parse_answer(text).at_end is at_end


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("2+3=5\n#### 5", "5"),
        ("####5", "5"),
        ("#### 4\nno:\n#### 5 eggs", "5 eggs"),
        ("####\n5", "5"),
        ("#### 5\n\nQuestion: 7?", "5"),
        ("####", ""),
        ("5", None),
    ],
)
def test_the_stated_answer_is_the_first_line_after_the_last_marker(text, stated):
    assert stated_after_marker(text) == stated


@pytest.mark.parametrize(
    ("text", "value"),
    [("First 3, then 4.\nSo 18 eggs.", 18), ("It is -2.50", Fraction(-5, 2)), ("17 of 1,234", 1234)],
)
def test_the_last_number_of_a_text_is_found(text, value):
    assert last_number(text).value == value


def test_a_text_without_numbers_has_no_last_one():
    assert last_number("no number") is None


amounts = st.decimals(min_value=0, max_value=10**12, places=2, allow_nan=False, allow_infinity=False)


@st.composite
def spellings(draw):
    """A number, and one of its spellings."""
    amount, sign = draw(amounts), draw(st.sampled_from(["", "", "-", "\u2212"]))
    digits = f"{amount:,.2f}" if draw(st.booleans()) else f"{amount:.2f}"
    if draw(st.booleans()):
        digits += "00"
    elif amount == int(amount):
        digits = digits.removesuffix(".00")
    digits = digits.replace(",", draw(st.sampled_from([",", "{,}", "\u202f", "'"])))
    currency = draw(st.sampled_from(["", "$", "€", "£", r"\$"]))
    form = draw(st.sampled_from(["{}", r"\boxed{{{}}}", "**{}**", "x = {}", "The answer is {}", "2 * 3 = {}"]))
    tail = draw(st.sampled_from(["", ".", "%", " eggs", " dollars per day.", "\t"]))
    return Fraction(amount) * (-1 if sign else 1), form.format(sign + currency + digits) + tail


@given(spellings())
def test_every_spelling_of_a_number_is_that_number(spelling):
    value, text = spelling
    assert parse_answer(text).value == value


@given(spellings(), st.integers(min_value=-(10**6), max_value=10**6).filter(bool))
def test_no_spelling_of_a_number_is_another_number(spelling, difference):
    value, text = spelling
    assert parse_answer(text).value != value + Fraction(difference, 100)


@given(st.text(max_size=200))
def test_any_text_is_parsed_without_an_error(text):
    parse_answer(text)
    last_number(text)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("piece", [" ", "1 ", "1,", "1/", "1", "-", "$", "= ", "\\frac{", "####"])
def test_a_huge_answer_is_parsed_in_linear_time(piece):
    text = piece * 100_000
    parse_answer(text)
    last_number(text)
    stated_after_marker(text)
