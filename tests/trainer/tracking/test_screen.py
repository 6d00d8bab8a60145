"""The live display, with everything else that prints."""

import sys
from pathlib import Path

from tests.trainer.tracking.terminal_window import run_in_window

NOISY = str(Path(__file__).with_name("noisy_run.py"))
NOISE = ("print", "os.write", "puts", "logged", "child", "error of child", "green")


def test_nothing_that_prints_breaks_the_bar():
    window = run_in_window([sys.executable, NOISY])
    assert window.exit_code == 0
    lines = [line for line in window.lines if line]
    noise = [f"{kind} {step}" for step in (1, 2, 3) for kind in NOISE]
    assert [line for line in lines if line in noise] == noise
    header = ["printed while loading", "noisy", "loss mine · 3 steps on 1 process", "run folder /runs/noisy"]
    assert lines[:4] == header
    bars = [line for line in lines if line.startswith("step ")]
    assert len(bars) == 1
    assert bars[0].startswith("step 3/3 ━")
    assert bars[0].endswith(" 0:02")
    assert lines[-4:] == [
        "reward 0.3000",
        "Finished after step 3, 0:02",
        "Run folder: /runs/noisy",
        "printed after the run",
    ]
    assert not window.cursor_hidden


def test_the_last_words_of_a_process_that_aborts_are_printed():
    window = run_in_window([sys.executable, NOISY, "abort"])
    assert window.exit_code == -6
    assert [line for line in window.lines if line][-1] == "last words"
    assert not window.cursor_hidden


def test_a_run_shows_what_it_loads_within_a_second(tmp_path):
    small = ["trainer.steps=1", "evaluation.prompts=0", "trainer.prompts_per_step=2", "trainer.samples_per_prompt=2"]
    command = [sys.executable, "-m", "skyrl_core", "train", "--loss", "gspo", *small]
    window = run_in_window([*command, f"run_folder={tmp_path / 'run'}"])
    assert window.exit_code == 0
    assert b"loading PyTorch" in window.raw
    assert window.first_output < 2  # 0.4 s on an idle machine
    assert "loss skyrl-core:gspo@1 · 1 step on 1 process" in window.lines
    assert not any("loading" in line for line in window.lines)  # what was loaded is gone from the screen
