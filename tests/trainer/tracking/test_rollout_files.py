"""Saving and reading sample batches."""

import os

import numpy as np
import pytest
from safetensors.numpy import load_file

from skyrl_train.tracking.atomic_file import RunFolderError
from skyrl_train.tracking.rollout_files import read_records, save_rollouts, saved_steps

RECORD = {"prompt": "1+1?", "response": "\u2028 2 \x1b", "reward": float("nan"), "advantage": -0.5, "finished": True}


def test_tensors_and_text_are_restored(tmp_path):
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    tensors = {"log_probs": matrix.T, "mask": np.array([True, False]), "step": np.int64(7)}
    save_rollouts(tmp_path / "rollouts", 40, tensors, [RECORD, RECORD], keep=2)
    folder = tmp_path / "rollouts"
    assert sorted(os.listdir(folder)) == ["step_000040.jsonl", "step_000040.safetensors"]
    loaded = load_file(folder / "step_000040.safetensors")
    np.testing.assert_array_equal(loaded["log_probs"], [[0, 3], [1, 4], [2, 5]])
    assert loaded["mask"].tolist() == [True, False]
    assert loaded["step"].shape == ()
    assert read_records(folder, 40) == [{**RECORD, "reward": None}] * 2


def test_only_the_last_steps_are_kept(tmp_path):
    for step in (8, 9, 10, 1_000_000):
        save_rollouts(tmp_path, step, {}, [RECORD], keep=2)
    assert saved_steps(tmp_path) == [10, 1_000_000]
    assert len(os.listdir(tmp_path)) == 4


def test_a_resumed_run_replaces_the_later_steps_of_the_abandoned_part(tmp_path):
    for step in (69, 70, 41):
        save_rollouts(tmp_path, step, {}, [RECORD], keep=2)
    assert saved_steps(tmp_path) == [41]


def test_incomplete_files_of_a_killed_run_are_deleted(tmp_path):
    for name in (".step_000005.jsonl.12.ab", "step_000006.safetensors", "notes.txt"):
        (tmp_path / name).write_text("")
    save_rollouts(tmp_path, 7, {}, [RECORD], keep=2)
    assert sorted(os.listdir(tmp_path)) == ["notes.txt", "step_000007.jsonl", "step_000007.safetensors"]


def test_keeping_no_steps_writes_nothing(tmp_path):
    save_rollouts(tmp_path / "rollouts", 1, {}, [RECORD], keep=0)
    assert not (tmp_path / "rollouts").exists()


def test_the_error_names_an_array_that_cannot_be_saved(tmp_path):
    with pytest.raises(ValueError, match="'words' has dtype"):
        save_rollouts(tmp_path, 1, {"words": np.array(["a"])}, [], keep=1)


def test_the_error_names_a_folder_that_cannot_be_created(tmp_path):
    (tmp_path / "rollouts").write_text("")
    with pytest.raises(RunFolderError, match=r"cannot write .*rollouts"):
        save_rollouts(tmp_path / "rollouts", 1, {}, [], keep=1)


def test_a_missing_folder_has_no_steps(tmp_path):
    assert saved_steps(tmp_path / "nothing") == []
