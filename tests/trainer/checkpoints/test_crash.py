"""Runs that are killed at random moments, many of them during saves, end like uninterrupted runs.

Each start is a separate process group, which SIGKILL ends at once, as the kernel's out-of-memory killer does. The run
then resumes from its newest checkpoint until it is killed again or finishes.
"""

import json
import os
import random
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from skyrl_train.checkpoints import manifest as checkpoint
from skyrl_train.checkpoints.checkpoint_folder import checkpoints, recover

pytestmark = [pytest.mark.crash, pytest.mark.timeout(3000)]

SEED = int(os.environ.get("SKYRL_CRASH_SEED", "20261124"))
RUN = {
    "trainer.steps": 8,
    "trainer.prompts_per_step": 2,
    "trainer.samples_per_prompt": 2,
    "trainer.minibatches": 2,
    "trainer.optimizer.schedule": "cosine",
    "trainer.algorithm.advantage_estimator": "noisy",
    "trainer.algorithm.policy_loss_type": "entropy_reg",
    "trainer.algorithm.entropy_reg.target_entropy": 0.3,
    "rollout.max_new_tokens": 4,
    "evaluation.prompts": 0,
    "checkpoint.every": 1,
    "checkpoint.keep": 1,
    "checkpoint.export": True,
    "tracking.trackers": [],
}
KILLS = {(1, 0): 10, (1, 1): 18, (1, 2): 26, (1, 3): 26, (2, 1): 6, (2, 2): 8, (2, 3): 6}
"""Number of kills, by number of ranks and ZeRO stage: a hundred in total.

A quarter of the kills must hit a save, and a quarter must follow progress. If chance or a slow machine gives fewer,
the run is killed more often, up to four times as often.
"""

PARTS = int(os.environ.get("SKYRL_CRASH_PARTS", "1"))
"""Divides the numbers of kills."""


Hidden = set[tuple[Path, int]]
"""Folders of checkpoints and exports that are being written or removed, each with its modification time."""


@dataclass
class Tally:
    """Counts of the states in which runs were killed."""

    rng: random.Random
    wanted: int
    kills: int = 0
    found: Counter[str] = field(default_factory=Counter)

    @property
    def is_enough(self) -> bool:
        rarest = min(self.found["in a save"], self.found["with progress"])
        return self.kills >= self.wanted and (rarest >= self.wanted // 4 or self.kills >= 4 * self.wanted)

    def note(self, left: Hidden, before: int, after: int) -> None:
        self.kills += 1
        names = {path.name for path, _ in left}
        self.found.update(
            {"in a save" if name.startswith(".step") else "in an export" for name in names} or {"outside"}
        )
        self.found["before the first checkpoint"] += after == 0
        self.found["with progress"] += after > before


def hidden(folder: Path) -> Hidden:
    found = set()
    for parent, names, _ in os.walk(folder / "checkpoints"):  # skips entries that disappear meanwhile
        for path in (Path(parent, name) for name in names if name.startswith(".")):
            with suppress(FileNotFoundError):  # removed since it was listed
                found.add((path, path.stat().st_mtime_ns))
        names[:] = [name for name in names if name.startswith("step_")]
    return found


def files_in(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))


def visible(folder: Path) -> int:
    """The step of the newest checkpoint, from its name; 0 without checkpoints."""
    found = checkpoints(folder / "checkpoints")
    return int(found[-1].name[5:]) if found else 0


def moment(rng: random.Random, folder: Path, stale: Hidden) -> Callable[[], bool]:
    """A condition for the kill: a state of the files during a save, on fast and slow machines alike, or a random time.

    ``stale``: files of an earlier kill, which exist until the run has started.
    """
    if rng.random() < 0.3:
        end = time.monotonic() + rng.uniform(0, 1.5)
        return lambda: time.monotonic() >= end
    writing = [(r"\.step_\d+\.partial", files) for files in range(8)]
    pattern, files = rng.choice([*writing, *[(r"\.step_\d+\.removed", 0)] * 2, (r"\.model\.partial", 0)])
    return lambda: any(
        re.fullmatch(pattern, path.name) and files_in(path) >= files for path, _ in hidden(folder) - stale
    )


def wait_until(reached: Callable[[], bool], run) -> None:
    while run.code is None and not reached():
        time.sleep(0.0005)


def strike(run, folder: Path, tally: Tally, before: int, stale: Hidden) -> None:
    """Kill the run after some steps, during a save or at a random time, unless it ends first."""
    # One of ten may be killed before its first checkpoint.
    goal = max(before, tally.rng.random() < 0.9) + tally.rng.randrange(3)
    wait_until(lambda: visible(folder) >= goal, run)
    wait_until(moment(tally.rng, folder, stale), run)
    time.sleep(tally.rng.choice([0, tally.rng.uniform(0, 0.03)]))
    run.kill()


def newest(folder: Path) -> int:
    """The step of the newest checkpoint, which must be intact; 0 without checkpoints."""
    recover(folder / "checkpoints")
    found = checkpoints(folder / "checkpoints")
    return checkpoint.read(found[-1]).step if found else 0


def has_ended(folder: Path) -> bool:
    file = folder / "run.json"
    return file.exists() and json.loads(file.read_text())["outcome"] == "finished"


def killed_until_done(start: Callable, folder: Path, tally: Tally) -> None:
    """Start, kill and resume the run until it finishes."""
    before = 0
    while True:
        if before == 0:
            shutil.rmtree(folder, ignore_errors=True)  # nothing was saved: a new run
        stale = hidden(folder)
        run = start(folder, before > 0)
        if not tally.is_enough:
            strike(run, folder, tally, before, stale)
        code = run.wait()
        left, after = hidden(folder) - stale, newest(folder)
        if code == 0:
            return
        assert code == -9, run.log.read_text()
        assert after >= before, "a checkpoint was lost"
        tally.note(left, before, after)
        if has_ended(folder):
            return  # killed during its exit
        before = after


@pytest.mark.parametrize(("ranks", "stage"), KILLS, ids=lambda value: str(value))
def test_a_killed_run_ends_like_an_uninterrupted_one(
    zygote, tiny_run, tmp_path, train_rows, assert_same_state, ranks, stage
):
    options = tiny_run(RUN | {"trainer.deepspeed.zero_stage": stage})
    tally = Tally(random.Random(f"{SEED}/{ranks}/{stage}"), max(KILLS[ranks, stage] // PARTS, 1))

    def start(folder: Path, resume: bool):
        place = ["--resume", str(folder)] if resume else [f"run_folder={folder}"]
        return zygote.start([*options, *place], ranks=ranks)

    uninterrupted = tmp_path / "uninterrupted"
    assert start(uninterrupted, False).wait() == 0
    rows = train_rows(uninterrupted)
    assert len({row["grad_norm"] for row in rows.values()}) == len(rows) == 8  # so equality means something
    runs = 0
    while not tally.is_enough:
        folder = tmp_path / f"killed{runs}"
        killed_until_done(start, folder, tally)
        assert train_rows(folder) == rows
        assert has_ended(folder)
        assert sorted(os.listdir(folder / "checkpoints")) == ["latest", "step_000008"]
        assert_same_state(folder / "checkpoints/step_000008", uninterrupted / "checkpoints/step_000008")
        models = [
            (path / "checkpoints/step_000008/model/model.safetensors").read_bytes() for path in (folder, uninterrupted)
        ]
        assert models[0] == models[1]
        shutil.rmtree(folder)
        runs += 1
    print(f"seed {SEED}: {tally.kills} kills of {runs} runs on {ranks} rank(s), stage {stage}: {dict(tally.found)}")
    assert tally.found["in a save"] >= tally.wanted // 4
    assert tally.found["with progress"] >= tally.wanted // 4
