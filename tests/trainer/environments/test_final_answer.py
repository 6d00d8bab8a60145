from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyrl_train.environments.final_answer import last_number, may_be_cut_off, parse_answer, stated_after_marker

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
    ("18 dollars.", 18),
    ("$18/hour", 18),
    ("18 km/h", 18),
    ("18-year-old", 18),
    ("The answer is 18 apples!", 18),
    ("x = 18", 18),
    ("3 + 15 = 18", 18),
    (r"18\text{ cm}", 18),
    *(
        (sign + "5", -5)
        for sign in ("- ", "\u2212 ", "\u2014", "\u2010", "\uff0d", "minus ", "negative ", "minus $", "- $")
    ),
    ("The answer is - 5", -5),
    ("x = \u2014 5", -5),
    ("\uff11\uff12\uff0c\uff13\uff14\uff15", 12_345),
    ("\U0001d7cf\U0001d7d6", 18),
    ("US$18", 18),
    ("18km", 18),
    ("18 percent", 18),
    ("3\u20444", Fraction(3, 4)),
    ("-1 1/2", Fraction(-3, 2)),
    (r"\boxed{x = 18}", 18),
    (r"$\boxed{18}$", 18),
    (r"3 \times 6 = 18", 18),
    ("Profit = 200 - 50 = $150", 150),
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
    # several numbers, in digits or words
    *("1234.5, or 7", "72 or 80", "12 hours 30 minutes", "18 (or 20)", "3 to 4", "two 18", "18 plus two", "1, 2 and 3"),
    *("72 = 80", r"\boxed{1}{8}", r"\boxed{1}8", r"\frac{3}{4}5", "2024-01-01", "01/02/03", "3:4", "18 remainder two"),
    # a sign that may be something else
    *("\u00b15", "+-5", "--5", "minus -5", "- -5", "answer - 5", "answer\u20145", "5-", "(5)", "($5)", "5 below zero"),
    # scales, fractions, exponents, operators
    *(
        "72 million",
        "72k",
        "72 K",
        "72M",
        "72m",
        "72bn",
        "72 lakh",
        "72 dozen",
        "72 and a half",
        "18\u00bd",
        "72\u2030",
    ),
    *(
        "72 point five",
        "1 3/2",
        r"\frac34",
        "5\u00b2",
        "5!",
        "5 squared",
        "2**3",
        "1\u00d710^3",
        "twice 18",
        "a third of 18",
    ),
    *("18/x", "72 divided by two", "72 mod", "5i", "5x", "5\u03c0", "5 pi", "\u221a5", "sqrt(5)", "18\u4e07", "18^"),
    # relations and doubt
    *("2x = 18", "x != 18", "x <= 18", "x \u2260 18", "\u2248 18", "~18", "> 5", "about 18", "at least 18", "18 or so"),
    *(
        "72+",
        "72ish",
        "not 18",
        "18 wait",
        "to 5",
        "18 is wrong",
        "18?",
        "18...",
        "wrong answer = 18",
        "log x = 18",
        "x/2 = 18",
        "-x = 18",
    ),
    # times, dates, names, ordinals
    *("5 pm", "5pm", "5 o'clock", "5 a.m.", "5 May", "May 5", "18th", "A72", "72A", "#72", "No. 72", "0x48"),
    # separators of other locales, characters that hide something, digits that are no digits
    *("1_000", "12,34,567", "0,123", "1,234'567", "1'23", "1\u200b8", "18\u0336", "\u4e94", "\u2167", "\u2460"),
]


@pytest.mark.parametrize(("text", "value"), ONE_NUMBER)
def test_a_statement_of_one_number_is_that_number_exactly(text, value):
    assert parse_answer(text) == value


@pytest.mark.parametrize("text", NOT_ONE_NUMBER)
def test_a_statement_of_no_number_or_several_is_not_a_number(text):
    assert parse_answer(text) is None


@pytest.mark.parametrize(
    ("text", "cut"),
    [("#### 18", True), ("#### 18 thou", True), ("so 18", True), ("#### 18\n", False), ("####\n18 eggs\nBut", False)],
)
def test_only_a_line_that_has_ended_cannot_be_cut_off(text, cut):
    assert may_be_cut_off(text, finished=False) is cut
    assert not may_be_cut_off(text, finished=True)


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
    [
        ("First 3, then 4.\nSo 18 eggs.", 18),
        ("It is -2.50", Fraction(-5, 2)),
        ("17 of 1,234", 1234),
        ("it is - 5", -5),
        ("so minus $5.", -5),
        ("it is \u20145", -5),
        (r"so \boxed{-18}.", -18),
        ("so **18** eggs and more", 18),
        (r"$\frac{1}{2}$", Fraction(1, 2)),
    ],
)
def test_the_last_number_of_a_text_is_found_with_its_sign(text, value):
    assert last_number(text) == value


@pytest.mark.parametrize(
    "text",
    ["so - 5", "10 - 5", "10 -5", "about ~5", "72 million", "72k", "5^2", "5!", "18\u00bd", "A72", "3 and a half"],
)
def test_a_last_number_whose_sign_or_scale_is_unclear_is_none(text):
    assert last_number(text) is None


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
    assert parse_answer(text) == value


@given(spellings(), st.integers(min_value=-(10**6), max_value=10**6).filter(bool))
def test_no_spelling_of_a_number_is_another_number(spelling, difference):
    value, text = spelling
    assert parse_answer(text) != value + Fraction(difference, 100)


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
