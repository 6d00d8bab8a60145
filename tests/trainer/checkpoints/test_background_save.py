"""Checkpoints that are written while training continues, on disks as slow as a test needs."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pytest
import torch

from skyrl_core.errors import SkyrlError
from skyrl_train.checkpoints import background_save, checkpoint_folder
from skyrl_train.checkpoints import manifest as checkpoint
from skyrl_train.checkpoints.background_save import BackgroundSave
from skyrl_train.checkpoints.manifest import MANIFEST, write_manifest
from skyrl_train.record.journal import Journal
from skyrl_train.record.progress import Progress
from skyrl_train.trainer_engine.snapshot import Snapshot

LIMIT = 60
WEIGHTS = "state/mp_rank_00_model_states.pt"


class Disk:
    """Writes once a test sets `room`."""

    def __init__(self) -> None:
        self.writing, self.room = threading.Event(), threading.Event()
        self.error: Exception | None = None


class OnDisk(Snapshot):
    def __init__(self, disk: Disk) -> None:
        super().__init__()
        self._disk = disk

    def write(self, before_each: Callable[[], None]) -> None:
        self._disk.writing.set()
        assert self._disk.room.wait(LIMIT)
        if self._disk.error is not None:
            raise self._disk.error
        super().write(before_each)


class Engine:
    """Stands in for ZeroEngine, whose snapshots are tested in test_zero.py: one weight, and a disk of this rank."""

    def __init__(self, rank: int = 0) -> None:
        self.weight, self.disk, self._rank = torch.zeros(1000), Disk(), rank

    def snapshot(self, folder: Path) -> Snapshot:
        snapshot = OnDisk(self.disk)
        if self._rank == 0:
            snapshot.add(folder / WEIGHTS, self.weight)
        snapshot.add(folder / f"state/zero_pp_rank_{self._rank}_mp_rank_00_optim_states.pt", self.weight)
        return snapshot


class Observers:
    """Records announced checkpoints, each of which must be complete by then."""

    def __init__(self) -> None:
        self.announced: list[str] = []

    def checkpoint_saved(self, path: Path) -> None:
        assert (path / MANIFEST).is_file()
        assert (path.parent / "latest").read_text() == f"{path.name}\n"
        self.announced.append(path.name)


def progress(step: int) -> Progress:
    return Progress(step=step, optimizer_steps=step, world_size=1, zero_stage=2, loss={"id": "a:b@1"})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir() if path.name != "latest")


@pytest.fixture
def engine():
    return Engine()


@pytest.fixture
def observers():
    return Observers()


@pytest.fixture
def saves(engine, observers, one_rank, tmp_path):
    made = BackgroundSave(engine, one_rank, Journal(tmp_path, observers=observers), keep=2)
    yield made
    engine.disk.room.set()
    made.__exit__(RuntimeError, RuntimeError("the end of a test"), None)


def written(saves, engine, step: int) -> None:
    engine.disk.room.set()
    saves.start(progress(step))
    saves.wait()
    engine.disk.room.clear()
    engine.disk.writing.clear()


def test_steps_do_not_wait_for_the_disk_and_the_saved_weights_are_those_of_the_step(saves, engine, observers, tmp_path):
    saves.start(progress(1))  # returns
    assert engine.disk.writing.wait(LIMIT)
    for _ in range(3):  # training continues
        engine.weight += 1
        saves.poll()
    assert names(tmp_path) == [".step_000001.partial"]
    assert (observers.announced, saves.is_writing) == ([], True)
    engine.disk.room.set()
    saves.wait()
    found = tmp_path / "checkpoints/step_000001"
    assert (observers.announced, names(tmp_path), saves.is_writing) == (["step_000001"], ["step_000001"], False)
    assert checkpoint.read(found) == progress(1)
    assert torch.equal(torch.load(found / WEIGHTS), torch.zeros(1000))
    assert (found / "random/rank_00000.pt").is_file()


def test_a_complete_checkpoint_is_announced_after_the_next_step(saves, engine, observers):
    engine.disk.room.set()
    saves.start(progress(1))
    deadline = time.monotonic() + LIMIT
    while saves.is_writing:
        assert time.monotonic() < deadline
        time.sleep(0.01)
        saves.poll()
    assert observers.announced == ["step_000001"]


def test_one_checkpoint_is_written_at_a_time(saves, engine, observers, tmp_path):
    saves.start(progress(1))
    second = threading.Thread(target=lambda: saves.start(progress(2)))
    second.start()
    second.join(0.2)
    assert second.is_alive()
    assert names(tmp_path) == [".step_000001.partial"]
    engine.disk.room.set()
    second.join(LIMIT)
    saves.wait()
    assert observers.announced == ["step_000001", "step_000002"]


ERRORS = [OSError(28, "No space left on device"), RuntimeError("PytorchStreamWriter failed"), MemoryError()]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("raises", ["poll", "wait", "start", "exit"])
def test_a_failed_save_is_raised_by_the_next_call(saves, engine, observers, tmp_path, error, raises):
    written(saves, engine, 1)
    engine.disk.error = error
    engine.disk.room.set()
    saves.start(progress(2))
    saves._writing[1].exception(LIMIT)
    words = {
        "poll": saves.poll,
        "wait": saves.wait,
        "start": lambda: saves.start(progress(3)),
        "exit": lambda: saves.__exit__(None, None, None),
    }
    with pytest.raises(SkyrlError, match=r"step_000002: .*MiB are free there\); earlier checkpoints are intact"):
        words[raises]()
    assert names(tmp_path) == ["step_000001"]  # no partial files take up space
    assert checkpoint.read(tmp_path / "checkpoints/step_000001") == progress(1)
    assert observers.announced == ["step_000001"]
    saves.wait()  # raised only once


def test_a_folder_that_cannot_be_made_is_an_error_at_once(engine, one_rank, tmp_path):
    (tmp_path / "checkpoints").write_text("")
    with BackgroundSave(engine, one_rank, Journal(tmp_path), keep=1) as saves:
        with pytest.raises(SkyrlError, match="cannot write checkpoint"):
            saves.start(progress(1))
        assert not engine.disk.writing.is_set()


def broken_run(saves):
    with saves:
        saves.start(progress(1))
        raise ZeroDivisionError


def test_the_end_of_the_run_waits_for_the_checkpoint_even_after_an_error(saves, engine, observers):
    threading.Timer(0.2, engine.disk.room.set).start()
    with pytest.raises(ZeroDivisionError):
        broken_run(saves)
    assert observers.announced == ["step_000001"]


def test_a_failed_save_after_another_error_is_a_warning(saves, engine, caplog):
    engine.disk.error = OSError(28, "No space left on device")
    engine.disk.room.set()
    with pytest.raises(ZeroDivisionError):
        broken_run(saves)
    assert "step_000001: No space left on device" in caplog.text


def test_an_abandoned_checkpoint_never_appears(saves, engine, observers, tmp_path):
    """The run has exited, and another process may own the run folder: no more files are written or removed."""
    saves.start(progress(1))
    assert engine.disk.writing.wait(LIMIT)
    writing = interrupted(saves)
    engine.disk.room.set()
    assert "was abandoned" in str(writing.exception(LIMIT))
    assert (names(tmp_path), observers.announced) == ([".step_000001.partial"], [])
    assert list((tmp_path / "checkpoints" / ".step_000001.partial").iterdir()) == []


def test_a_checkpoint_abandoned_while_it_is_hashed_never_appears(saves, engine, tmp_path, monkeypatch):
    hashing, proceed = threading.Event(), threading.Event()

    def slow(*arguments):
        hashing.set()
        assert proceed.wait(LIMIT)
        write_manifest(*arguments)

    monkeypatch.setattr(background_save, "write_manifest", slow)
    engine.disk.room.set()
    saves.start(progress(1))
    assert hashing.wait(LIMIT)
    writing = interrupted(saves)
    proceed.set()
    assert "was abandoned" in str(writing.exception(LIMIT))
    assert names(tmp_path) == [".step_000001.partial"]


def test_a_signal_during_publishing_waits_until_the_checkpoint_is_complete(saves, engine, tmp_path, monkeypatch):
    publish, publishing = checkpoint_folder.publish, threading.Event()

    def slow(partial):
        publishing.set()
        time.sleep(0.5)
        return publish(partial)

    monkeypatch.setattr(checkpoint_folder, "publish", slow)
    engine.disk.room.set()
    saves.start(progress(1))
    assert publishing.wait(LIMIT)
    interrupted(saves)
    assert names(tmp_path) == ["step_000001"]
    assert saves._journal.last_checkpoint.name == "step_000001"


class Interrupting:
    """A future whose result is interrupted by a signal."""

    def __init__(self, future: Future) -> None:
        self.done = future.done

    def result(self) -> None:
        raise KeyboardInterrupt


def interrupted(saves: BackgroundSave) -> Future:
    """Wait for the checkpoint, interrupted by a signal; the future of the thread, which continues."""
    checkpoint, writing = saves._writing
    saves._writing = checkpoint, Interrupting(writing)
    with pytest.raises(KeyboardInterrupt):
        saves.wait()
    return writing


def test_missing_memory_for_the_copy_is_reported_and_no_partial_files_remain(saves, engine, tmp_path, monkeypatch):
    def without_memory(_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 12 bytes")

    monkeypatch.setattr(engine, "snapshot", without_memory)
    with pytest.raises(SkyrlError, match=r"cannot write checkpoint .*step_000001: .*can't allocate memory"):
        saves.start(progress(1))
    assert names(tmp_path) == []


def test_a_checkpoint_appears_after_the_samples_of_its_steps(saves, engine, tmp_path):
    samples = Future()
    saves._journal.samples = lambda: samples
    engine.disk.room.set()
    saves.start(progress(1))
    with pytest.raises(TimeoutError):
        saves._writing[1].result(0.2)
    samples.set_exception(SkyrlError("cannot write rollouts"))  # the journal raises it; the steps are kept
    saves.wait()
    assert names(tmp_path) == ["step_000001"]


def test_no_checkpoint_appears_before_the_record_of_its_steps_is_on_disk(saves, engine, tmp_path):
    def full():
        raise SkyrlError("cannot write metrics.jsonl: No space left on device")

    saves._journal.sync = full
    engine.disk.room.set()
    saves.start(progress(1))
    with pytest.raises(SkyrlError, match=r"cannot write metrics\.jsonl"):
        saves.wait()
    assert names(tmp_path) == []


@pytest.fixture
def two_ranks(on_ranks, tmp_path):
    """Run a function of saves, engine and rank on two ranks."""

    def run(work):
        def one(ranks):
            engine = Engine(ranks.rank)
            with BackgroundSave(engine, ranks, Journal(tmp_path), keep=1) as saves:
                return work(saves, engine, ranks)

        return on_ranks(2, one)

    return run


def test_two_ranks_write_one_checkpoint_and_the_faster_one_trains_on(two_ranks, tmp_path):
    seen = []

    def work(saves, engine, ranks):
        if ranks.is_main:
            engine.disk.room.set()
        saves.start(progress(1))
        for _ in range(3):
            saves.poll()
        seen.append(names(tmp_path))
        ranks.gather(None)
        engine.disk.room.set()
        while saves.is_writing:
            saves.poll()
        return names(tmp_path)

    assert two_ranks(work) == [["step_000001"]] * 2
    assert seen == [[".step_000001.partial"]] * 2
    found = tmp_path / "checkpoints/step_000001"
    assert checkpoint.read(found) == progress(1)
    shards = [f"state/zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in (0, 1)]
    files = sorted(path.relative_to(found).as_posix() for path in found.rglob("*.pt"))
    assert files == ["random/rank_00000.pt", "random/rank_00001.pt", WEIGHTS, *shards]


class Late:
    """A future that is done at the third check."""

    def __init__(self, future: Future) -> None:
        self.result, self._looks = future.result, iter((False, False, True))

    def done(self) -> bool:
        return next(self._looks, True)


def test_all_ranks_find_it_complete_after_the_same_step(two_ranks):
    def work(saves, engine, ranks):
        engine.disk.room.set()
        saves.start(progress(1))
        checkpoint, writing = saves._writing
        writing.result(LIMIT)
        if ranks.rank == 1:
            saves._writing = checkpoint, Late(writing)
        steps = 0
        while saves.is_writing:
            saves.poll()
            steps += 1
        return steps

    assert two_ranks(work) == [3, 3]


@pytest.mark.parametrize("failing", [0, 1])
def test_a_write_error_of_one_rank_is_raised_on_all_ranks(two_ranks, tmp_path, failing):
    errors = []

    def work(saves, engine, ranks):
        engine.disk.room.set()
        saves.start(progress(1))
        saves.wait()
        if ranks.rank == failing:
            engine.disk.error = OSError(28, "No space left on device")
        saves.start(progress(2))
        try:
            while True:
                saves.poll()
        except SkyrlError as error:
            errors.append(str(error))
        return names(tmp_path)

    assert two_ranks(work) == [["step_000001"]] * 2
    assert len(set(errors)) == 1
    assert len(errors) == 2
    assert "step_000002: No space left on device" in errors[0]


def test_an_error_of_rank_0_at_the_start_is_raised_on_all_ranks(two_ranks, tmp_path):
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(SkyrlError, match="cannot write checkpoint"):
        two_ranks(lambda saves, engine, ranks: saves.start(progress(1)))
