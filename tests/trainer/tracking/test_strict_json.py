"""JSON that every parser accepts."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from skyrl_train.tracking.strict_json import encode


def test_non_finite_numbers_are_null_at_any_depth():
    value = {"a": [math.nan, {"b": np.float32("inf")}], "c": np.array([1.0, np.nan])}
    assert json.loads(encode(value)) == {"a": [None, {"b": None}], "c": [1.0, None]}


def test_numpy_values_paths_and_sets_become_plain_data():
    assert json.loads(encode({"n": np.int64(3), "t": np.bool_(True), "p": Path("a/b")})) == {
        "n": 3,
        "t": True,
        "p": "a/b",
    }


def test_text_is_preserved_including_half_surrogates_and_line_separators():
    text = "naïve 数 \U0001f600 \ud83d \u2028 \n \x1b"
    encoded = encode([text])
    assert b"\n" not in encoded
    assert json.loads(encoded) == [text]


def test_the_error_names_a_value_without_a_json_representation():
    with pytest.raises(TypeError, match="object has no JSON representation"):
        encode({"a": object()})
