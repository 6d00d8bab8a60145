"""The glossary of metrics, and numbers as people read them."""

import pytest

from skyrl_train.tracking.metric_glossary import (
    GLOSSARY,
    by_evaluation_set,
    describe,
    format_change,
    format_duration,
    format_metric,
    format_value,
    in_order,
    with_prefix,
)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.4694, "percent", "46.9%"),
        (12345.6, "number", "12,346"),
        (123.456, "number", "123.5"),
        (12.345, "number", "12.35"),
        (-0.01234, "number", "-0.0123"),
        (1e-6, "number", "1.00e-06"),
        (0.0, "number", "0"),
        (float("nan"), "percent", "nan"),
        (float("-inf"), "number", "-inf"),
        (None, "number", "-"),
        (1.5, "seconds", "1.50 s"),
        (2411.6, "count", "2,412"),
    ],
)
def test_numbers_are_formatted_for_people(value, unit, text):
    assert format_value(value, unit) == text


def test_the_standard_error_follows_the_value():
    assert format_metric("accuracy", {"accuracy": 0.469, "accuracy/standard_error": 0.0353}) == "46.9% ± 3.5"
    assert format_metric("accuracy", {"accuracy": 0.469, "accuracy/standard_error": float("nan")}) == "46.9%"


def test_changes_have_a_sign_and_fractions_change_by_points():
    assert format_change("accuracy", 0.469, 0.781) == "+31.2 points"
    assert format_change("response_length/mean", 12.5, 11.25) == "-1.25"
    assert format_change("reward/mean", 1.0, 1.0) == "0"
    assert format_change("reward/mean", None, 1.0) == ""
    assert format_change("reward/mean", float("nan"), 1.0) == ""


def test_metrics_are_in_the_order_of_the_glossary_with_unlisted_ones_last():
    names = ["zzz", "loss/total", "pass@16", "loss/kl", "accuracy", "accuracy/standard_error", "pass@4", "reward/mean"]
    assert in_order(names) == ["accuracy", "pass@4", "pass@16", "reward/mean", "loss/total", "loss/kl", "zzz"]


def test_an_unlisted_metric_is_a_number_in_a_chart_named_after_its_prefix():
    entry = describe("my_plugin/odd_ratio")
    assert (entry.label, entry.unit, entry.chart) == ("my plugin odd ratio", "number", "My plugin")


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0:00"), (59.6, "1:00"), (125, "2:05"), (3723, "1:02:03")])
def test_durations_have_hours_only_above_one(seconds, text):
    assert format_duration(seconds) == text


def test_all_metrics_of_a_chart_have_the_same_unit():
    units = {}
    for entry in GLOSSARY:
        units.setdefault(describe(entry.pattern).chart, set()).add(entry.unit)
    assert [chart for chart, found in units.items() if len(found) > 1] == []


def test_trackers_show_every_metric_of_an_evaluation_under_one_prefix():
    assert with_prefix({"accuracy": 1.0, "math/accuracy": 0.5, "evaluation/a/accuracy": 0.0}) == {
        "evaluation/accuracy": 1.0,
        "evaluation/math/accuracy": 0.5,
        "evaluation/a/accuracy": 0.0,
    }


def test_metrics_of_an_evaluation_are_split_by_set():
    named = {"math/accuracy": 0.5, "math/accuracy/standard_error": 0.1, "math/reward/mean": 1.0, "math/pass@4": 0.75}
    assert by_evaluation_set(named) == {
        "math": {"accuracy": 0.5, "accuracy/standard_error": 0.1, "reward/mean": 1.0, "pass@4": 0.75}
    }
    assert by_evaluation_set({"accuracy": 0.5, "reward/judge/mean": 2.0}) == {
        "": {"accuracy": 0.5, "reward/judge/mean": 2.0}
    }
    assert by_evaluation_set({"odd/metric": 1.0}) == {"": {"odd/metric": 1.0}}
