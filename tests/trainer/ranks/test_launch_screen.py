"""One display for several processes."""

import subprocess
import sys
from pathlib import Path

from tests.trainer.tracking.terminal_window import run_in_window

PROGRAM = [sys.executable, str(Path(__file__).with_name("launched_noise.py"))]


def test_the_output_of_every_process_goes_above_the_display_of_rank_0():
    window = run_in_window(PROGRAM)
    lines = [line for line in window.lines if line]
    assert lines[:3] == ["mine", "loss mine · 3 steps on 1 process", "run folder /runs/mine"]
    assert {line for line in lines if line.startswith("rank ")} == {
        f"rank {rank} in step {step}" for rank in (0, 1) for step in (1, 2, 3)
    }
    [bar] = [line for line in lines if line.startswith("step ")]
    assert bar.startswith("step 3/3 ━")
    assert lines[-4:] == [
        "reward 0.3000",
        "Finished after step 3, 0:02",
        "Run folder: /runs/mine",
        "exit codes [0, 0]",
    ]
    assert b"starting 2 processes" in window.raw
    assert b"\x1b[32m1/3" in window.raw  # in colour
    assert not window.cursor_hidden


def test_a_pipe_gets_the_plain_lines_of_the_processes():
    done = subprocess.run(PROGRAM, capture_output=True, text=True, check=True)
    assert "\x1b" not in done.stdout
    assert [line.split("  ")[0] for line in done.stdout.splitlines() if line.startswith("step ")] == [
        "step 1/3",
        "step 2/3",
        "step 3/3",
    ]
    assert done.stderr.splitlines() == [f"rank 1 in step {step}" for step in (1, 2, 3)]
