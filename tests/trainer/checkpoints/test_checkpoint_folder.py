"""Checkpoint folders with plain files. Their real content is tested in test_background_save.py."""

import os
import re
import shutil
from pathlib import Path

import pytest
from tests.trainer.fixtures.plain_checkpoint import write_state

from skyrl_core.errors import SkyrlError
from skyrl_train.checkpoints import checkpoint_folder
from skyrl_train.checkpoints import manifest as checkpoint
from skyrl_train.checkpoints.checkpoint_folder import candidates, checkpoints, clear, find, finish, recover
from skyrl_train.checkpoints.manifest import MANIFEST, write_manifest
from skyrl_train.record.progress import Progress


def progress(step: int, **changes) -> Progress:
    known = {"optimizer_steps": 2 * step, "world_size": 1, "zero_stage": 2, "loss": {"id": "a:b@1"}}
    return Progress(step=step, **(known | changes))


def save(folder: Path, step: int, *, keep: int = 2, **changes) -> Path:
    partial = checkpoint_folder.partial_folder(folder, step)
    checkpoint_folder.begin(partial)
    write_state(partial)
    write_manifest(partial, progress(step, **changes), {"python": "3.11"})
    path = checkpoint_folder.publish(partial)
    checkpoint_folder.prune(folder, step, keep)
    return path


@pytest.fixture
def write(tmp_path):
    return lambda step, **changes: save(tmp_path, step, **changes)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "latest")


def test_a_saved_checkpoint_reads_back_and_no_other_files_remain(write, tmp_path):
    path = write(3)
    assert path == tmp_path / "step_000003"
    assert checkpoint.read(path) == progress(3)
    assert names(tmp_path) == ["step_000003"]
    assert names(path) == [MANIFEST, "random", "state"]


def test_finish_names_the_newest_checkpoint_and_prunes_after_a_kill(write, tmp_path):
    for step in (1, 2, 3, 4):
        write(step, keep=9)
    (tmp_path / "latest").write_text("step_000002\n")
    finish(tmp_path, 3, keep=2)
    assert checkpoints(tmp_path) == [tmp_path / "step_000002", tmp_path / "step_000003"]
    assert (tmp_path / "latest").read_text() == "step_000003\n"


def test_everything_is_on_disk_before_the_name_is(write, tmp_path, monkeypatch):
    """The order of system calls decides what remains after a power loss."""
    flushed, renamed = [], []
    fsync, rename = os.fsync, Path.rename

    def noting_fsync(descriptor):
        flushed.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).relative_to(tmp_path).as_posix())
        fsync(descriptor)

    def noting_rename(path, target):
        renamed.append(len(flushed))
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(Path, "rename", noting_rename)
    write(1)
    names = write_state(tmp_path / "names")
    inside = ["", MANIFEST, "random", "state", *names]
    assert renamed == [len(inside)]
    assert sorted(flushed[: len(inside)]) == sorted(f".step_000001.partial/{name}".rstrip("/") for name in inside)
    assert flushed[len(inside)] == "."  # then the new name
    assert re.fullmatch(r"\.latest\..*", flushed[len(inside) + 1])  # then the file latest, likewise
    assert flushed[len(inside) + 2 :] == ["."]


def test_the_latest_checkpoints_are_kept(write, tmp_path):
    for step in (1, 2, 3, 10):
        write(step)
    assert [path.name for path in checkpoints(tmp_path)] == ["step_000003", "step_000010"]
    assert find(tmp_path).name == "step_000010"


def test_the_file_latest_is_replaced_atomically(write, tmp_path):
    (tmp_path / ".latest.123.abc").write_text("step_0000")  # of a run that was killed during the write
    for step in (1, 2):
        write(step)
        assert (tmp_path / "latest").read_text() == f"step_00000{step}\n"
    assert names(tmp_path) == ["step_000001", "step_000002"]


def test_a_checkpoint_without_manifest_is_no_reason_to_remove_a_good_one(write, tmp_path):
    write(1)
    (write(2) / MANIFEST).unlink()
    write(3)
    assert [path.name for path in checkpoints(tmp_path)] == ["step_000001", "step_000002", "step_000003"]
    write(4)
    assert [path.name for path in checkpoints(tmp_path)] == ["step_000003", "step_000004"]


def test_a_save_removes_checkpoints_of_later_steps(write, tmp_path):
    write(5)
    write(3)
    assert names(tmp_path) == ["step_000003"]


def test_checkpoints_after_the_resumed_step_are_hidden_and_then_removed(write, tmp_path):
    for step in (1, 2, 3):
        write(step, keep=5)
    finish(tmp_path, 1, 5)
    assert checkpoints(tmp_path) == [tmp_path / "step_000001"]
    assert find(tmp_path) == tmp_path / "step_000001"
    assert (tmp_path / "latest").read_text() == "step_000001\n"
    assert names(tmp_path) == [".step_000002.removed", ".step_000003.removed", "step_000001"]
    write(2, keep=5)
    assert names(tmp_path) == ["step_000001", "step_000002"]


def test_a_checkpoint_of_the_same_step_is_replaced(write, tmp_path):
    write(3)
    write(3, optimizer_steps=17)
    assert checkpoint.read(tmp_path / "step_000003").optimizer_steps == 17
    assert names(tmp_path) == ["step_000003"]


def test_a_run_that_dies_while_it_replaces_a_checkpoint_has_the_old_one(write, tmp_path, monkeypatch):
    write(3)
    rename = Path.rename

    def dies_in_between(path, target):
        if path.name.endswith(".partial"):
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", dies_in_between)
    with pytest.raises(KeyboardInterrupt):
        write(3, optimizer_steps=17)
    monkeypatch.setattr(Path, "rename", rename)
    assert checkpoints(tmp_path) == []
    recover(tmp_path)
    assert checkpoint.read(find(tmp_path)) == progress(3)
    clear(tmp_path)
    assert names(tmp_path) == ["step_000003"]


def test_leftovers_of_a_killed_run_are_removed(write, tmp_path):
    kept = write(2)
    left = [f".step_00000{number}.{ending}" for number, ending in enumerate(["partial", "removed", "converted"], 3)]
    for folder in [*left, ".step_000002.replaced", "step_000002/.model.partial"]:
        (tmp_path / folder / "state").mkdir(parents=True)
    assert checkpoints(tmp_path) == [kept]  # none of them was ever visible
    clear(tmp_path)
    assert names(tmp_path) == ["step_000002"]
    assert names(kept) == [MANIFEST, "random", "state"]


def test_a_run_folder_or_a_checkpoint_may_be_named(tmp_path):
    folder = tmp_path / "checkpoints"
    first, second = (save(folder, step) for step in (4, 5))
    assert find(tmp_path) == find(folder) == find(second) == second
    assert candidates(tmp_path) == candidates(second) == [second, first]
    assert candidates(first) == [first]  # not the later one
    copy = tmp_path / "elsewhere"
    shutil.copytree(first, copy)
    assert candidates(copy) == [copy]


def test_a_folder_without_checkpoints_is_an_error_that_names_the_valid_paths(tmp_path):
    with pytest.raises(SkyrlError, match=r"no complete checkpoint in .*: give a run folder"):
        find(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(SkyrlError, match=r"ended before its first checkpoint.*start again"):
        find(tmp_path)
