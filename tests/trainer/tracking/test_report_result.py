"""The result of a run: before, after, and whether the change is more than noise."""

import pytest

from skyrl_train.tracking.history import History
from skyrl_train.tracking.report_result import describe_end, read_result


def evaluated(before, after, **more):
    return read_result({"before": before, "after": after, "last_step": 50} | more, History())


def test_the_headline_is_the_accuracy_with_its_standard_error():
    result = evaluated(
        {"accuracy": 0.46, "accuracy/standard_error": 0.02, "reward/mean": 0.4},
        {"accuracy": 0.85, "accuracy/standard_error": 0.018, "reward/mean": 0.8},
    )
    headline = result.headline
    assert (headline.label, headline.before, headline.after) == (
        "accuracy on held-out problems",
        "46.0% ± 2.0",
        "85.0% ± 1.8",
    )
    assert (headline.change, headline.sign, headline.note) == ("+39.0 points", "up", "± is one standard error.")
    assert (result.step, result.has_accuracy) == (50, True)


@pytest.mark.parametrize(("after", "is_noise"), [(0.559, True), (0.575, False), (0.441, True), (0.425, False)])
def test_a_change_below_two_standard_errors_is_called_chance(after, is_noise):
    # The difference has the standard error sqrt(0.03² + 0.02²) = 0.036, twice that is 0.072.
    headline = evaluated(
        {"accuracy": 0.5, "accuracy/standard_error": 0.03}, {"accuracy": after, "accuracy/standard_error": 0.02}
    ).headline
    assert ("may be chance" in headline.note) == is_noise
    assert (headline.sign == "") == is_noise


def test_a_run_without_accuracy_shows_its_reward():
    result = evaluated({"reward/mean": 1.5}, {"reward/mean": 0.5})
    assert (result.headline.label, result.headline.change) == ("reward on held-out problems", "-1.00")
    assert result.headline.sign == "down"
    assert not result.has_accuracy


def test_a_run_without_evaluations_compares_its_first_and_last_steps():
    history = History(train={step: {"reward/mean": float(step > 10)} for step in range(1, 21)})
    headline = read_result({}, history).headline
    assert (headline.label, headline.before, headline.after) == ("reward in training", "0", "1.00")
    assert headline.note == "The first 2 steps and the last 2 steps. This run has no evaluation."


def test_a_run_without_metrics_has_no_headline():
    assert read_result({}, History()).headline is None
    assert read_result({"after": {"response_length/mean": 3.0}}, History()).headline is None


def test_every_named_set_has_its_rows_and_the_first_makes_the_headline():
    result = evaluated(
        {"easy/accuracy": 0.5, "hard/accuracy": 0.1},
        {"easy/accuracy": 0.75, "hard/accuracy": 0.2},
    )
    assert [(group.name, group.rows) for group in result.sets] == [
        ("easy", (("accuracy", "50.0%", "75.0%", "+25.0 points"),)),
        ("hard", (("accuracy", "10.0%", "20.0%", "+10.0 points"),)),
    ]
    assert result.headline.label == "accuracy on held-out problems of easy"


def test_a_run_in_progress_reads_its_evaluations_from_the_history():
    result = read_result({}, History(evaluations={0: {"accuracy": 0.5}, 10: {"accuracy": 0.75}}))
    assert (result.headline.before, result.headline.after, result.step) == ("50.0%", "75.0%", 10)


def test_the_end_of_a_run_is_one_sentence():
    run = {"total_steps": 50, "training_seconds": 87.1, "last_step": 50}
    assert describe_end("finished", run, History()) == "Finished: 50 of 50 steps in 1:27."
    assert describe_end("killed", {"total_steps": 50}, History(train={7: {}})) == "Killed: 7 of 50 steps."
