"""JSON for every parser."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from skyrl_train.tracking.strict_json import encode


def test_non_finite_numbers_are_null_at_any_depth():
    value = {"a": [math.nan, {"b": np.float32("inf")}], "c": np.array([1.0, np.nan])}
    assert json.loads(encode(value)) == {"a": [None, {"b": None}], "c": [1.0, None]}


def test_numpy_paths_and_sets_have_plain_forms():
    assert json.loads(encode({"n": np.int64(3), "t": np.bool_(True), "p": Path("a/b")})) == {
        "n": 3,
        "t": True,
        "p": "a/b",
    }


def test_text_survives_half_surrogates_and_line_separators_included():
    text = "naïve 数 \U0001f600 \ud83d \u2028 \n \x1b"
    encoded = encode([text])
    assert b"\n" not in encoded
    assert json.loads(encoded) == [text]


def test_what_has_no_form_is_named():
    with pytest.raises(TypeError, match="object has no JSON form"):
        encode({"a": object()})
