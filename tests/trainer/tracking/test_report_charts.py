"""The charts of the report."""

from skyrl_train.tracking.history import History
from skyrl_train.tracking.report_charts import draw_charts


def legends(history):
    return [(chart.title, [entry.label for entry in chart.legend]) for chart in draw_charts(history)]


def test_charts_group_related_metrics_in_the_order_of_the_glossary():
    train = {"zzz": 1.0, "reward/mean": 1.0, "reward/std": 1.0, "clip_fraction_high": 0.1, "clip_fraction_low": 0.2}
    history = History(train={1: train}, evaluations={0: {"pass@2": 0.6, "accuracy": 0.4, "reward/mean": 0.4}})
    assert legends(history) == [
        ("Accuracy", ["accuracy", "pass@2"]),
        ("Reward", ["reward", "reward, held-out", "std"]),
        ("Clip fraction", ["clipped below", "clipped above"]),
        ("Zzz", ["zzz"]),
    ]


def test_a_group_with_many_curves_is_split_into_several_charts():
    history = History(train={1: {f"time/{letter}": 1.0 for letter in "abcdefgh"}})
    assert [len(chart.legend) for chart in draw_charts(history)] == [6, 2]


def test_every_named_evaluation_set_has_a_curve():
    first = {"easy/accuracy": 0.5, "evaluation/easy/accuracy/standard_error": 0.1}
    history = History(train={4: {"loss/total": 1.0}}, evaluations={0: first, 4: {"hard/accuracy": 0.25}})
    [accuracy, _] = draw_charts(history)
    assert [(entry.label, entry.last) for entry in accuracy.legend] == [
        ("accuracy, easy", "50.0%"),
        ("accuracy, hard", "25.0%"),
    ]


def test_differences_in_rounding_look_like_nothing():
    history = History(train={step: {"mismatch_kl": step % 2 * 1e-9} for step in range(1, 9)})
    [chart] = draw_charts(history)
    assert ">0.001<" in chart.svg
