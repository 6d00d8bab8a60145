"""Writing metrics.jsonl."""

import json
import math
import os
import resource

import pytest

from skyrl_core.contract.metric import RESERVED_METRIC_NAMES
from skyrl_core.errors import SkyrlError
from skyrl_train.tracking.atomic_file import RunFolderError
from skyrl_train.tracking.history import OWN_KEYS, read_history
from skyrl_train.tracking.metrics_jsonl import MetricsRecord
from skyrl_train.tracking.tracker import RunInfo, TrackerError


def started(folder, start_step=0):
    tracker = MetricsRecord()
    tracker.notes = tracker.start(
        RunInfo(run_folder=folder, title="t", loss="l", total_steps=9, config={}, start_step=start_step)
    )
    return tracker


def entries(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_each_call_writes_one_line_immediately(tmp_path):
    tracker = started(tmp_path)
    tracker.log_evaluation(0, {"accuracy": 0.5}, False)
    tracker.log_step(1, {"reward/mean": 0.25})
    first, second = entries(tmp_path)  # not closed yet
    assert first["time"] <= second["time"]
    assert first | {"time": 0} == {"step": 0, "kind": "evaluation", "final": False, "time": 0, "accuracy": 0.5}
    assert second | {"time": 0} == {"step": 1, "kind": "train", "time": 0, "reward/mean": 0.25}
    tracker.close()
    tracker.close()


def test_numbers_without_a_json_form_become_null(tmp_path):
    tracker = started(tmp_path)
    tracker.log_step(1, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1e-300})
    tracker.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    entry = json.loads(text)
    assert (entry["a"], entry["b"], entry["c"], entry["d"]) == (None, None, None, 1e-300)


def test_a_resumed_run_removes_later_steps_and_incomplete_lines(tmp_path):
    tracker = started(tmp_path)
    tracker.log_evaluation(0, {}, False)
    for step in range(1, 6):
        tracker.log_step(step, {"reward/mean": step})
    tracker.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "kind": "tra')
    resumed = started(tmp_path, start_step=3)
    resumed.log_step(4, {"reward/mean": 40})
    resumed.close()
    assert [(entry["step"], entry.get("reward/mean")) for entry in entries(tmp_path)] == [
        (0, None), (1, 1), (2, 2), (3, 3), (4, 40),
    ]  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_resumed_run_that_completes_no_step_keeps_every_line(tmp_path):
    tracker = started(tmp_path)
    for step in range(1, 4):
        tracker.log_step(step, {})
    tracker.close()
    before = (tmp_path / "metrics.jsonl").read_bytes()
    started(tmp_path, start_step=1).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_a_line_that_lacks_only_its_newline_is_repaired(tmp_path):
    tracker = started(tmp_path)
    tracker.log_step(1, {})
    tracker.close()
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(file.read_bytes().rstrip(b"\n"))
    resumed = started(tmp_path, start_step=1)
    resumed.log_step(2, {})
    resumed.close()
    assert [entry["step"] for entry in entries(tmp_path)] == [1, 2]


def test_a_loss_cannot_use_the_reserved_keys():
    assert OWN_KEYS <= RESERVED_METRIC_NAMES


def test_a_metric_with_a_reserved_key_is_refused(tmp_path):
    tracker = started(tmp_path)
    with pytest.raises(TrackerError, match="metrics cannot be named step, time"):
        tracker.log_step(1, {"step": 2, "time": 3, "ok": 1})
    tracker.close()


def test_a_write_error_names_the_file(tmp_path):
    tracker = started(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        tracker.log_step(1, {"reward/mean": 0.5})
        with pytest.raises(RunFolderError, match=r"cannot write .*metrics\.jsonl: File too large.*--resume"):
            tracker.log_step(2, {"reward/mean": 0.5})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    tracker.close()


def test_a_line_that_did_not_fit_is_completed_before_a_checkpoint_may_rely_on_it(tmp_path):
    tracker = started(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        tracker.log_step(1, {"reward/mean": 0.5})
        for write in (lambda: tracker.log_step(2, {"reward/mean": 0.5}), tracker.sync):
            with pytest.raises(RunFolderError, match=r"cannot write .*metrics\.jsonl: File too large"):
                write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    tracker.sync()
    assert [entry["step"] for entry in entries(tmp_path)] == [1, 2]
    tracker.close()
    tracker.sync()  # nothing to do


GOOD = b'{"step": 1, "kind": "train"}\n{"step": 2, "kind": "train"}\n'


@pytest.mark.parametrize(
    "line",
    [
        b"garbage",
        b'{"step": 2, "kind": "tra',
        b"",
        b"\0\0\0",
        b"\xff\xfe",
        b"[]",
        b"3",
        b"{}",
        b'{"step": 2}',
        b'{"step": "2", "kind": "train"}',
        b'{"step": true, "kind": "train"}',
        b'{"step": 1.5, "kind": "train"}',
        b'{"step": -1, "kind": "train"}',
        b'{"step": [2], "kind": "train"}',
        b'{"step": 2, "kind": ["train"]}',
        b'{"step": 2, "kind": "other"}',
        b'{"step": ' + b"9" * 5000 + b', "kind": "train"}',
        b'{"step": 2, "kind": "train", "a": ' + b"[" * 100_000,
    ],
)
def test_a_malformed_line_is_an_error_before_training_and_a_note_at_the_end_of_the_file(tmp_path, line):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(GOOD + line)
    resumed = started(tmp_path, start_step=2)
    torn = ["metrics.jsonl:3: the last line is incomplete, and the next step replaces it"] if line else []
    assert resumed.notes == torn
    resumed.log_step(3, {})
    resumed.close()
    assert [entry["step"] for entry in entries(tmp_path)] == [1, 2, 3]
    file.write_bytes(line + b"\n" + GOOD)
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl:1: not a line of metrics .*restore the file, or delete"):
        started(tmp_path, start_step=2)
    assert file.read_bytes() == line + b"\n" + GOOD
    assert read_history(file).unreadable_lines == 1


def test_missing_steps_and_a_missing_file_are_noted(tmp_path):
    assert started(tmp_path, start_step=3).notes == ["metrics.jsonl lacks 3 steps, from 1 to 3, of this run"]
    (tmp_path / "metrics.jsonl").write_bytes(GOOD)
    assert started(tmp_path, start_step=3).notes == ["metrics.jsonl lacks step 3 of this run"]
    assert started(tmp_path, start_step=2).notes == []


def test_a_pipe_in_place_of_the_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(RunFolderError, match="is not a regular file"):
        started(tmp_path, start_step=1)


@pytest.mark.parametrize("value", [object(), {"a": object()}, b"bytes"])
def test_a_metric_that_cannot_be_written_ends_the_run_instead_of_the_record(tmp_path, value):
    tracker = started(tmp_path)
    with pytest.raises(SkyrlError, match=r"the metrics of step 1 cannot be recorded: .*; log numbers only"):
        tracker.log_step(1, {"odd": value})
    tracker.close()


def test_the_error_for_a_missing_folder_names_the_file(tmp_path):
    with pytest.raises(RunFolderError, match=r"gone/metrics\.jsonl: No such file"):
        started(tmp_path / "gone")
