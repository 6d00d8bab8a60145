"""Reading metrics.jsonl as series over steps."""

import json

from skyrl_train.tracking.history import read_history


def write(path, *entries):
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def test_steps_and_evaluations_are_series(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(
        path,
        {"step": 0, "kind": "evaluation", "final": False, "time": 1.5, "accuracy": 0.4},
        {"step": 1, "kind": "train", "time": 2.5, "loss/total": None, "reward/mean": 1},
        {"step": 1, "kind": "evaluation", "final": True, "time": 3.5, "accuracy": 0.6},
    )
    history = read_history(path)
    assert history.train == {1: {"loss/total": None, "reward/mean": 1}}
    assert history.before == {"accuracy": 0.4}
    assert history.after == (1, {"accuracy": 0.6})
    assert (history.last_step, history.unreadable_lines) == (1, 0)


def test_a_step_that_was_logged_twice_counts_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, {"step": 1, "kind": "train", "a": 1}, {"step": 1, "kind": "train", "a": 2})
    assert read_history(path).train == {1: {"a": 2}}


def test_incomplete_and_unknown_lines_are_counted(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "kind": "train", "a": 1}\n[1]\n{"kind": "train"}\n\xff\xfe\n{"step": 2, "ki')
    history = read_history(path)
    assert history.train == {1: {"a": 1}}
    assert history.unreadable_lines == 4


def test_a_missing_file_is_an_empty_history(tmp_path):
    history = read_history(tmp_path / "metrics.jsonl")
    assert (history.train, history.before, history.after, history.last_step) == ({}, None, None, 0)
