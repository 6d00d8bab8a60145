"""The output of the console in a pipe and on a terminal."""

import fcntl
import io
import json
import os
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from skyrl_train.tracking.console import Console
from skyrl_train.tracking.tracker import AnswerPair, RunInfo, RunSummary

PROGRAM = str(Path(__file__).with_name("simulated_run.py"))
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def run_on_terminal(folder: Path, columns: int, **environment: str) -> str:
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    clean = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    program = subprocess.Popen(
        [sys.executable, PROGRAM, str(folder), "5"],
        stdout=slave,
        env={**clean, "TERM": "xterm-256color", **environment},
    )
    os.close(slave)
    chunks = []
    try:
        while chunk := os.read(master, 65536):
            chunks.append(chunk)
    except OSError:  # the program has exited: end of file
        pass
    os.close(master)
    assert program.wait(60) == 0
    return b"".join(chunks).decode()


def run_in_pipe(folder: Path, steps: int, **environment: str) -> str:
    answer = subprocess.run(
        [sys.executable, PROGRAM, str(folder), str(steps)],
        capture_output=True,
        check=True,
        env={**os.environ, **environment},
        timeout=60,
    )
    return answer.stdout.decode()


def info(folder: Path, steps: int = 3) -> RunInfo:
    return RunInfo(run_folder=folder, title="a run", loss="skyrl-core:gspo@1", total_steps=steps, config={})


def test_a_pipe_gets_one_plain_line_per_step(tmp_path):
    output = run_in_pipe(tmp_path, 5, FORCE_COLOR="1")
    assert "\x1b" not in output
    assert "\r" not in output
    steps = [line for line in output.splitlines() if line.startswith("step ")]
    assert [line.split()[1] for line in steps] == ["1/5", "2/5", "3/5", "4/5", "5/5"]
    assert "reward 0.2000  loss -0.0123  tokens/s 2,412" in steps[0]


def test_a_pipe_gets_about_a_thousand_lines_from_a_long_run(tmp_path):
    steps = [line for line in run_in_pipe(tmp_path, 2500).splitlines() if line.startswith("step ")]
    assert len(steps) == 834  # every third step, and the last
    assert steps[-1].startswith("step 2500/2500")


def test_lines_reach_the_reader_immediately(tmp_path):
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "w") as stream:
        console = Console(stream)
        console.start(info(tmp_path))
        console.log_step(1, {"reward/mean": 0.5})
        assert b"step 1/3  reward 0.5000" in os.read(read_end, 65536)
    os.close(read_end)


def test_the_final_summary_compares_before_and_after(tmp_path):
    lines = [line.rstrip() for line in run_in_pipe(tmp_path, 1).splitlines()]
    row = next(line for line in lines if line.startswith("accuracy"))
    assert re.split(r"\s{2,}", row) == ["accuracy", "46.9% ± 3.5", "78.1% ± 3.5", "+31.2 points"]
    assert "Finished after step 1, 1:15" in lines
    assert f"Run folder: {tmp_path}" in lines


def test_model_output_is_neither_markup_nor_control_sequence(tmp_path):
    shown = r"[red]x[/red] \x1b[2J\x1b]0;evil\x07 [/]"
    pipe = run_in_pipe(tmp_path, 1)
    assert f"Before, wrong  {shown}" in pipe
    assert f"note {shown}" in pipe
    assert f"a run {shown}" in pipe
    terminal = run_on_terminal(tmp_path, 100)
    assert shown in ESCAPES.sub("", terminal)
    assert "\x1b[2J" not in terminal
    assert "\x1b]" not in terminal


@pytest.mark.parametrize("columns", [60, 100])
def test_a_terminal_shows_a_bar_within_its_width_and_gets_its_cursor_back(tmp_path, columns):
    output = run_on_terminal(tmp_path, columns)
    text = ESCAPES.sub("", output)
    assert "step 5/5 ━" in text
    assert output.rindex("\x1b[?25h") > output.rindex("\x1b[?25l")
    # The console does not wrap paths, so that they can be copied.
    lines = [line for line in re.split(r"[\r\n]+", text) if str(tmp_path) not in line]
    assert max(len(line) for line in lines) <= columns


def test_no_color_is_respected(tmp_path):
    colours = re.compile(r"\x1b\[[0-9;]*3[0-9]")
    assert colours.search(run_on_terminal(tmp_path, 80))
    assert not colours.search(run_on_terminal(tmp_path, 80, NO_COLOR="1"))


def test_a_dumb_terminal_gets_plain_lines(tmp_path):
    output = run_on_terminal(tmp_path, 80, TERM="dumb")
    assert "\x1b" not in output
    assert "step 5/5  reward" in output


def test_a_run_continues_when_the_reader_of_the_pipe_exits(tmp_path):
    # Other parts of a run print as well.
    program_that_prints = f"import runpy; runpy.run_path({PROGRAM!r}, run_name='__main__'); print('x' * 100_000)"
    program = subprocess.Popen(
        [sys.executable, "-c", program_that_prints, str(tmp_path), "900"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    program.stdout.readline()
    program.stdout.close()
    errors = program.stderr.read().decode()
    program.stderr.close()
    assert program.wait(60) == 0
    assert errors.count("is disabled; training continues") == 1
    assert "Traceback" not in errors
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 902
    assert json.loads(lines[-1])["final"] is True


def test_narrow_encodings_do_not_end_the_run(tmp_path):
    output = run_in_pipe(tmp_path, 1, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert r"accuracy 46.9% \xb1 3.5" in output


def test_an_interrupted_run_shows_the_command_that_resumes_it(tmp_path):
    stream = io.StringIO()
    console = Console(stream)
    console.start(info(tmp_path))
    console.finish(
        RunSummary(
            run_folder=tmp_path, steps=2, seconds=1, outcome="interrupted", resume_command="skyrl train --resume runs/x"
        )
    )
    console.close()
    assert "Interrupted after step 2" in stream.getvalue()
    assert "To resume:  skyrl train --resume runs/x" in stream.getvalue()


def test_long_answers_are_shortened_and_empty_ones_marked(tmp_path):
    stream = io.StringIO()
    console = Console(stream)
    console.start(info(tmp_path))
    pair = AnswerPair(
        question="q", expected="4", before=None, before_correct=None, after="a" * 1400, after_correct=False
    )
    empty = AnswerPair(question="q", expected="4", before="", before_correct=False, after="4", after_correct=True)
    console.finish(RunSummary(run_folder=tmp_path, steps=3, seconds=1, answers=(pair, empty)))
    output = stream.getvalue()
    assert output.count("a" * 50) <= 400 / 50
    assert "(1,000 more characters)" in output.replace("\n", " ")
    assert "Before, wrong  (empty)" in output
    assert output.count("Before") == 1
