"""Real runs that train, are killed or get a signal while a checkpoint is being written."""

import os
import signal
import subprocess
import sys

import pytest

SLOW = """\
import os
import time
from pathlib import Path

from skyrl_train.entrypoints.main_base import main
from skyrl_train.trainer_engine.snapshot import Snapshot

write = Snapshot.write
place = Path(os.environ["PLACE"])


def slow(self, before_each):
    if any("step_000002" in str(path) for path in self.files) and os.environ.get("RANK", "0") in os.environ["SLOW"]:
        place.with_suffix(".reached").touch()
        while not place.exists():
            time.sleep(0.01)
    write(self, before_each)


Snapshot.write = slow
if __name__ == "__main__":
    main()
"""
RUN = {
    "trainer.steps": 7,
    "trainer.minibatches": 2,
    "evaluation.prompts": 0,
    "rollout.max_new_tokens": 8,
    "checkpoint.every": 2,
    "checkpoint.keep": 9,
}


@pytest.fixture
def slow(start, tmp_path):
    """Starts a run whose second checkpoint waits, on some ranks, until the file `room` exists."""

    class Slow:
        room, reached = tmp_path / "room", tmp_path / "room.reached"

        def start(self, options, ranks, *, resume=None, slow="01"):
            script = tmp_path / "slow.py"
            script.write_text(SLOW)
            command = [sys.executable, str(script), *(["--num-processes", str(ranks)] if ranks > 1 else [])]
            command += [] if resume is None else ["--resume", str(resume)]
            return start(command, [] if resume else options, PLACE=str(self.room), SLOW=slow)

    return Slow()


@pytest.fixture(scope="module")
def undisturbed(zygote, tiny_run, tmp_path_factory):
    """The same run on a fast disk."""

    def run(stage, ranks):
        folder = tmp_path_factory.mktemp("undisturbed") / "run"
        options = RUN | {"trainer.deepspeed.zero_stage": stage, "run_folder": str(folder)}
        zygote.train(tiny_run(options), ranks=ranks)
        return folder

    return run


def kill_all(process: int) -> None:
    """Kill a process and all its descendants: the ranks of a launcher are in separate sessions."""
    os.kill(process, signal.SIGSTOP)
    children = subprocess.run(["pgrep", "-P", str(process)], capture_output=True, text=True, check=False)
    for child in children.stdout.split():
        kill_all(int(child))
    os.kill(process, signal.SIGKILL)


CASES = [
    pytest.param(stage, ranks, marks=pytest.mark.ranks if ranks > 1 else pytest.mark.train)
    for stage, ranks in [(0, 1), (2, 1), (3, 1), (2, 2), (3, 2)]
]


@pytest.mark.parametrize(("stage", "ranks"), CASES)
def test_a_checkpoint_has_the_state_of_its_step_and_never_appears_after_a_kill(
    slow, undisturbed, tiny_run, train_rows, assert_same_state, stage, ranks
):
    uninterrupted = undisturbed(stage, ranks)
    run = slow.start(tiny_run(RUN | {"trainer.deepspeed.zero_stage": stage, "checkpoint.every": 1}), ranks)
    run.until(slow.reached.exists)
    run.until_step(3)  # which changes every weight
    assert run.checkpoints == [".step_000002.partial", "step_000001"]
    kill_all(run.process.pid)
    run.exit_code()
    slow.reached.unlink()
    again = slow.start([], ranks, resume=run.folder)  # from step 1
    again.until(slow.reached.exists)
    again.until_step(3)
    slow.room.touch()
    assert again.exit_code() == 0, again.stderr[-3000:]
    assert again.checkpoints == [f"step_{step:06d}" for step in range(1, 8)]
    assert train_rows(run.folder) == train_rows(uninterrupted)
    for step in (2, 4, 6, 7):
        name = f"checkpoints/step_{step:06d}"
        assert_same_state(run.folder / name, uninterrupted / name)


SIGNALS = [pytest.param(1, marks=pytest.mark.train), pytest.param(2, marks=pytest.mark.ranks)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("ranks", SIGNALS)
def test_after_a_signal_the_write_completes_and_the_last_step_is_saved(slow, tiny_run, ranks, number):
    run = slow.start(tiny_run(RUN | {"trainer.steps": 50, "checkpoint.every": 2}), ranks, slow="0")
    run.until(slow.reached.exists)
    run.until_step(3)
    run.send(number)
    run.until_logged("stopping after this step")
    with pytest.raises(subprocess.TimeoutExpired):
        run.process.wait(2)
    assert run.checkpoints == [".step_000002.partial"]
    slow.room.touch()
    assert run.exit_code() == 128 + number
    last = run.run["last_step"]
    assert last in (3, 4)
    assert run.checkpoints == ["step_000002", f"step_{last:06d}"]
    assert run.run["checkpoint"] == str(run.folder / f"checkpoints/step_{last:06d}")
    assert run.run["outcome"] == "interrupted"
    assert run.last_line == f"  {run.run['resume_command']}"
