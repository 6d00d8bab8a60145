"""Trackio: the real package and its local database, in one process for its global state."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("trackio", reason="the extra trackio is not installed")

PROGRAM = """
import json, pathlib, sys
from skyrl_train.tracking.tracker import RunInfo, RunSummary
from skyrl_train.tracking.trackio import Trackio

folder = pathlib.Path(sys.argv[1])
config = {"tracking": {"trackio": {"project": "p", "group": "seeds"}}}
for start_step, steps in ((0, [1, 2]), (2, [3])):
    tracker = Trackio()
    info = {"run_folder": folder, "title": "t", "loss": "a:b@1", "total_steps": 3, "config": config}
    tracker.start(RunInfo(**info, start_step=start_step))
    for step in steps:
        tracker.log_step(step, {"reward/mean": step / 4})
    tracker.log_evaluation(steps[-1], {"accuracy": 0.5}, False)
    tracker.finish(RunSummary(run_folder=folder, steps=3, seconds=1.0))
    tracker.close()
import trackio
from trackio.sqlite_storage import SQLiteStorage
[run] = trackio.Api().runs("p")
keys = ("step", "reward/mean", "evaluation/accuracy")
rows = [[row.get(key) for key in keys] for row in SQLiteStorage.get_logs("p", run.name)]
print(json.dumps([run.name, run.config["loss"], rows]))
"""


def test_a_resumed_run_continues_the_same_run_and_prints_nothing_else(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    environment = {"TRACKIO_DIR": str(tmp_path / "trackio"), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    name, loss, rows = json.loads(done.stdout)
    assert loss == "a:b@1"
    assert rows == [[1, 0.25, None], [2, 0.5, None], [2, None, 0.5], [3, 0.75, None], [3, None, 0.5]]
    assert name == (folder / "trackio" / "run_name").read_text().strip()
