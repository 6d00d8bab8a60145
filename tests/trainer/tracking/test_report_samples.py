"""The samples of the report."""

import pytest

from skyrl_train.tracking.report_samples import SHOWN_SAMPLES, read_samples
from skyrl_train.tracking.rollout_files import save_rollouts


def record(number, **fields):
    return {"prompt": f"question {number}", "response": "r", "reward": 1.0, "error": None} | fields


def test_samples_have_a_verdict_if_the_run_has_an_accuracy(tmp_path):
    records = [
        record(1),
        record(2, reward=0.0),
        record(3, reward=None, error="boom"),
        record(4, reward=0.0, solved=True),
    ]
    save_rollouts(tmp_path, 1, {}, records, keep=1)
    samples = read_samples(tmp_path, has_accuracy=True)
    assert [sample.verdict for sample in samples.shown] == ["right", "wrong", "error", "right"]
    assert samples.counts == {"right": 2, "wrong": 1, "error": 1}
    assert [sample.reward for sample in samples.shown] == ["1", "0", "", "0"]


def test_without_an_accuracy_only_errors_have_a_verdict(tmp_path):
    save_rollouts(tmp_path, 1, {}, [record(1), record(2, error="boom")], keep=1)
    assert [sample.verdict for sample in read_samples(tmp_path, has_accuracy=False).shown] == ["", "error"]


def test_the_latest_step_comes_first_and_keys_are_short(tmp_path):
    for step in (1, 2):
        save_rollouts(tmp_path, step, {}, [record(step, ground_truth="4", finished=False, advantage=0.123456)], keep=2)
    samples = read_samples(tmp_path, has_accuracy=True)
    assert samples.steps == [2, 1]
    assert samples.shown[0].details == (
        ("response", "r"),
        ("expected", "4"),
        ("ended in time", "no"),
        ("advantage", "0.1235"),
    )


def test_named_rewards_are_readable(tmp_path):
    save_rollouts(tmp_path, 1, {}, [record(1, rewards={"correct": 1.0, "short": 0.25})], keep=1)
    assert ("rewards", "correct 1, short 0.25") in read_samples(tmp_path, has_accuracy=True).shown[0].details


@pytest.mark.parametrize("steps", [1, 3])
def test_many_samples_are_spread_over_all_steps(tmp_path, steps):
    for step in range(1, steps + 1):
        save_rollouts(tmp_path, step, {}, [record(number) for number in range(1000)], keep=steps)
    samples = read_samples(tmp_path, has_accuracy=True)
    assert samples.total == 1000 * steps
    assert len(samples.shown) == SHOWN_SAMPLES // steps * steps
    assert len(samples.steps) == steps
    last = samples.shown[-1].prompt
    assert int(last.split()[1]) > 980


def test_a_run_without_samples_has_none(tmp_path):
    assert read_samples(tmp_path / "rollouts", has_accuracy=True).shown == ()
