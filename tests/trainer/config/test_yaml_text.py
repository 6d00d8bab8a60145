"""YAML: scalars, line numbers, duplicate keys, and texts that are rejected."""

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyrl_core.errors import InvalidParamsError
from skyrl_train.config.yaml_text import inline_yaml, parse_yaml, write_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-6", 1e-6),
        ("1E-6", 1e-6),
        ("-1e+3", -1000.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("010", 10),
        ("0x1F", 31),
        ("0o17", 15),
        ("true", True),
        ("yes", "yes"),
        ("NO", "NO"),
        ("~", None),
        (".inf", math.inf),
        ("2020-01-01", "2020-01-01"),
        ("12:30", "12:30"),
        ("'1e-6'", "1e-6"),
        ("1e-6x", "1e-6x"),
        ("1_000", "1_000"),
    ],
)
def test_scalars_follow_yaml_1_2(text, value):
    read = parse_yaml(f"a: {text}", "f").value["a"]
    assert read == value
    assert type(read) is type(value)


def test_every_key_has_its_line_number():
    document = parse_yaml("a:\n  b: 1\n\n  c:\n    d: 2\ne: {f: 3}\n", "f")
    assert document.lines == {("a",): 1, ("a", "b"): 2, ("a", "c"): 4, ("a", "c", "d"): 5, ("e",): 6, ("e", "f"): 6}


def test_keys_of_a_mapping_override_merged_ones():
    assert parse_yaml("base: &base {x: 1, y: 2}\nmine:\n  <<: *base\n  x: 3\n", "f").value["mine"] == {"x": 3, "y": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "f:3: duplicate key a, first on line 1"),
        ("a:\n  b: 1\n  b: 2", "f:3: duplicate key a.b, first on line 2"),
        ("a:\n\tb: 1", "f:2: not valid YAML"),
        ("a: b: c", "f:1: not valid YAML"),
        ("a: [1", "f:1: not valid YAML"),
        ("x: !!python/object:os.system {}", "f:1: the tag"),
        ("x: !mine 1", "f:1: the tag !mine is not supported"),
        ("x: !!int word", "f:1: 'word' is no !!int"),
        ("x: !!bool maybe", "f:1: 'maybe' is no !!bool"),
        ('x: !!float ""', "f:1: '' is no !!float"),
        ("x: !!null word", "f:1: 'word' is no !!null"),
        ("x: !!timestamp word", "f:1: the tag tag:yaml.org,2002:timestamp is not supported"),
        ("x: !!binary YQ==", "f:1: the tag tag:yaml.org,2002:binary is not supported"),
        ("x: !!merge a", "f:1: 'a' is no !!merge"),
        ("x: !!str [a]", "f:1: the tag"),
        ("? [a]\n: 1", "f:1: a key must be a name"),
        ("a: 1\n---\nb: 2", "f:2: not valid YAML"),
        ("a: 1\nb: \x00", "f:2: not valid YAML: the character U+0000"),
        ("a: &x [*x]", "contains itself"),
        ("a: " + "[" * 5000, "f:1: nested more than 64 levels deep"),
        ("a: " + "9" * 5000, "f:1: the number has more than 100 digits"),
        ("a: 0x" + "f" * 5000, "f:1: the number has more than 100 digits"),
        (
            "\n".join(f"a{i}: &a{i} {'[' * 9}{f'*a{i - 1}' if i else 1}{']' * 9}" for i in range(9)),
            "nested more than 64",
        ),
        ("a: &a {b: 1, <<: *a}", "contains itself"),
    ],
)
def test_invalid_yaml_is_rejected_with_its_line(text, message):
    with pytest.raises(InvalidParamsError) as caught:
        parse_yaml(text, "f")
    assert message in str(caught.value)


def test_a_tab_is_an_error_with_a_hint():
    with pytest.raises(InvalidParamsError, match="indent with spaces"):
        parse_yaml("a:\n\tb: 1", "f")


LISTS = "a0: &a0 [1, 1, 1, 1]\n" + "".join(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 10}]\n" for i in range(1, 9))
MERGES = f"a: &a {{{', '.join(f'k{i}: 1' for i in range(300))}}}\nb: {{<<: [{'*a, ' * 100}]}}\n"


@pytest.mark.parametrize("bomb", [LISTS, MERGES])
def test_aliases_that_multiply_are_rejected(bomb):
    with pytest.raises(InvalidParamsError, match="aliases included"):
        parse_yaml(bomb, "f")


@pytest.mark.parametrize("text", ["k: 1\n" * 200_000, "a: [" + "1, " * 300_000, "{" * 900_000])
def test_a_text_of_a_megabyte_is_refused_within_seconds(text):
    start = time.process_time()
    with pytest.raises(InvalidParamsError):
        parse_yaml(text, "f")
    assert time.process_time() - start < 5


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), plain, max_size=4))
def test_written_yaml_reads_back(value):
    assert parse_yaml(write_yaml(value), "f").value == value


@pytest.mark.parametrize("text", ["1e-6", "yes", "null", "012", "0x1f", "", "2020-01-01", "1_000"])
def test_text_that_looks_like_something_else_stays_text(text):
    assert parse_yaml(write_yaml({"a": text}), "f").value == {"a": text}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-6, "1e-06"),
        (None, "null"),
        (True, "true"),
        ("5", "'5'"),
        ("x", "x"),
        ([1, "a"], "[1, a]"),
        ({"a": 1}, "{a: 1}"),
    ],
)
def test_inline_form_is_what_a_user_would_type(value, text):
    assert inline_yaml(value) == text


def test_inline_form_is_one_short_line():
    text = inline_yaml("first\n\nsecond " + "x" * 500)
    assert "\n" not in text
    assert len(text) == 60
