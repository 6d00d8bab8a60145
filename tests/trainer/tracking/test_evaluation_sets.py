"""Metrics of named evaluation sets."""

import pytest

from skyrl_train.tracking.evaluation_sets import split_by_set, with_prefix


@pytest.mark.parametrize("prefix", ["", "evaluation/"])
def test_metrics_are_split_by_set_and_the_unnamed_set_is_first(prefix):
    named = {"math/accuracy": 0.5, "math/accuracy/standard_error": 0.1, "math/reward/mean": 1.0, "math/pass@4": 0.75}
    metrics = {f"{prefix}{name}": value for name, value in named.items()} | {"accuracy": 0.25, "reward/mean": 2.0}
    assert list(split_by_set(metrics).items()) == [
        ("", {"accuracy": 0.25, "reward/mean": 2.0}),
        ("math", {"accuracy": 0.5, "accuracy/standard_error": 0.1, "reward/mean": 1.0, "pass@4": 0.75}),
    ]


def test_a_metric_that_no_set_has_keeps_its_name():
    assert split_by_set({"odd/metric": 1.0}) == {"": {"odd/metric": 1.0}}


def test_trackers_get_one_prefix():
    assert with_prefix({"accuracy": 1.0, "math/accuracy": 0.5, "evaluation/a/accuracy": 0.0}) == {
        "evaluation/accuracy": 1.0,
        "evaluation/math/accuracy": 0.5,
        "evaluation/a/accuracy": 0.0,
    }
