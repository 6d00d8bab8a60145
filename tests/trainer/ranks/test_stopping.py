"""Ctrl-C and SIGTERM, with real signals: the stop, the checkpoint, and the resume command."""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from skyrl_train.ranks.stopping import ECHO, SIGNALS, Interrupted, StopRequest

BIN = Path(sys.executable).parent
MODULE = ["-m", "skyrl_train.entrypoints.main_base"]
ONE_PROCESS = [sys.executable, *MODULE]
SKYRL_TRAIN = [str(BIN / "skyrl"), "train", "--num-processes", "2"]
TORCHRUN = [str(BIN / "torchrun"), "--nproc-per-node", "2"]

SLOW_LOSS = """\
import os
import signal
import time
from pathlib import Path

from skyrl_core import LossParams, PolicyLoss, TokenLosses
from skyrl_train.algorithms.policy_losses import register_policy_loss
from skyrl_train.entrypoints.main_base import main


class Slow(PolicyLoss):
    name = "slow"
    Params = LossParams
    api_version = 1
    semantics_version = 1
    reference = "a test"

    @classmethod
    def needs(cls, params):
        return frozenset()

    def token_losses(self, batch):
        reached = os.environ.get("REACHED")
        if reached and batch.step == 1 and os.environ.get("RANK", "0") == os.environ.get("SLOW_RANK", "0"):
            Path(reached).touch()
            request = signal.getsignal(signal.SIGTERM).__self__
            while not request._received:
                time.sleep(0.01)
            Path(reached).with_suffix(".received").touch()
            time.sleep(10_000)
        return TokenLosses(values=-batch.log_probs * batch.advantages)


register_policy_loss("slow", Slow)
main()
"""


def checkpoints(folder):
    return sorted(path.name for path in (folder / "checkpoints").glob("step_*"))


@pytest.fixture
def resume(start):
    """Run the printed command up to this step, and check that each step of the run is logged once."""

    def check(run, command, steps):
        again = start(["sh", "-c", f"{command} trainer.steps={steps}"], [], name=run.folder.name)
        assert again.exit_code() == 0, again.stderr[-3000:]
        assert [row["step"] for row in again.rows] == list(range(1, steps + 1))
        assert again.run["outcome"] == "finished"

    return check


@pytest.fixture
def slow_loss(tmp_path):
    """A script whose second optimizer step hangs, and the file that it creates there.

    On the first signal during that step it creates another file, `reached.received`.
    """
    script, reached = tmp_path / "slow.py", tmp_path / "reached"
    script.write_text(SLOW_LOSS)
    options = {"trainer.algorithm.policy_loss_type": "slow", "checkpoint.every": 1, "evaluation.prompts": 0}
    return script, reached, options


STEPS = 1000
"""More steps than a run makes before a signal reaches it."""


@pytest.mark.train
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_after_a_signal_the_step_ends_and_is_saved_and_the_resume_command_is_printed(number, start, resume, tiny_run):
    run = start(ONE_PROCESS, tiny_run({"trainer.steps": STEPS, "evaluation.prompts": 0}))
    run.until_step(2)
    run.send(number)
    assert run.exit_code() == 128 + number
    last = run.run["last_step"]
    assert 2 <= last < STEPS
    assert (run.run["outcome"], checkpoints(run.folder)) == ("interrupted", [f"step_{last:06d}"])
    assert run.last_line == f"  {run.run['resume_command']}"
    assert f"interrupted by {number.name} after step {last}" in run.stderr
    assert "Traceback" not in run.stderr
    resume(run, run.last_line, last + 2)


@pytest.mark.train
def test_a_second_signal_abandons_the_step_and_the_last_checkpoint_stays(start, resume, slow_loss, tiny_run):
    script, reached, options = slow_loss
    run = start([sys.executable, str(script)], tiny_run(options), REACHED=str(reached))
    run.until(reached.exists)
    run.send(signal.SIGINT)
    run.until_logged("to stop now)")
    run.send(signal.SIGTERM)
    assert run.exit_code() == 128 + signal.SIGINT  # the first decides
    assert (run.run["outcome"], run.run["last_step"], checkpoints(run.folder)) == ("interrupted", 1, ["step_000001"])
    assert run.last_line == f"  python {script} --config {run.folder}/config.yaml --resume {run.folder}"
    resume(run, run.last_line, 2)


@pytest.mark.train
def test_a_run_without_a_checkpoint_reports_that_it_cannot_be_resumed(start, resume, slow_loss, tiny_run):
    script, reached, options = slow_loss
    options |= {"checkpoint.every": 0, "checkpoint.on_stop": False}
    run = start([sys.executable, str(script)], tiny_run(options), REACHED=str(reached))
    run.until(reached.exists)
    for _ in range(2):
        run.send(signal.SIGINT)
        run.until_logged("to stop now)")
    assert run.exit_code() == 128 + signal.SIGINT
    assert run.last_line == (
        "interrupted by SIGINT after step 1; no checkpoint was saved, so this run cannot be resumed"
    )
    assert (run.run["outcome"], run.run["resume_command"]) == ("interrupted", None)


@pytest.mark.ranks
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_several_ranks_stop_after_the_same_step_and_resume_from_it(number, start, resume, tiny_run):
    run = start(SKYRL_TRAIN, tiny_run({"trainer.steps": STEPS, "evaluation.prompts": 0}))
    run.until_step(2)
    run.send(number)
    assert run.exit_code() == 128 + number
    last = run.run["last_step"]
    assert (run.run["outcome"], checkpoints(run.folder)) == ("interrupted", [f"step_{last:06d}"])
    assert run.last_line == f"  skyrl train --num-processes 2 --config {run.folder}/config.yaml --resume {run.folder}"
    resume(run, run.last_line, last + 2)


@pytest.mark.ranks
def test_a_run_whose_command_is_killed_saves_and_stops(start, tiny_run):
    run = start(SKYRL_TRAIN, tiny_run({"trainer.steps": STEPS, "evaluation.prompts": 0}))
    run.until_step(2)
    processes = psutil.Process(run.process.pid).children(recursive=True)
    listening = [c.laddr.ip for p in processes for c in p.net_connections("tcp") if c.status == "LISTEN"]
    assert set(listening) == {"127.0.0.1"}
    run.process.kill()
    _, alive = psutil.wait_procs(processes, timeout=120)
    assert alive == []
    last = run.run["last_step"]
    assert (run.run["outcome"], checkpoints(run.folder)) == ("interrupted", [f"step_{last:06d}"])


@pytest.mark.ranks
def test_a_signal_to_one_rank_stops_all(start, resume, tiny_run):
    run = start([*TORCHRUN, *MODULE], tiny_run({"trainer.steps": STEPS, "evaluation.prompts": 0}))
    run.until_step(2)
    os.kill(run.process_of(rank=1), signal.SIGTERM)
    run.exit_code()
    last = run.run["last_step"]
    assert (run.run["outcome"], checkpoints(run.folder)) == ("interrupted", [f"step_{last:06d}"])
    resume(run, shlex.join(shlex.split(run.run["resume_command"])), last + 2)


@pytest.mark.ranks
@pytest.mark.parametrize("slow_rank", ["0", "1"])
def test_a_second_signal_abandons_the_step_of_all_ranks(slow_rank, start, resume, slow_loss, tiny_run):
    script, reached, options = slow_loss
    command = [sys.executable, str(script), "--num-processes", "2"]
    run = start(command, tiny_run(options), REACHED=str(reached), SLOW_RANK=slow_rank)
    run.until(reached.exists)
    run.send(signal.SIGINT)
    run.until(reached.with_suffix(".received").exists)
    time.sleep(ECHO)  # a signal within this time is a launcher's echo, not a second request
    run.send(signal.SIGINT)
    assert run.exit_code() == 128 + signal.SIGINT
    assert (run.run["outcome"], run.run["last_step"], checkpoints(run.folder)) == ("interrupted", 1, ["step_000001"])
    resume(run, run.last_line, 2)


@pytest.mark.ranks
def test_a_step_longer_than_the_patience_of_the_launcher_is_abandoned_in_order(start, resume, slow_loss, tiny_run):
    script, reached, options = slow_loss
    patience = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "12", "REACHED": str(reached), "SLOW_RANK": "1"}
    run = start([*TORCHRUN, str(script)], tiny_run(options), **patience)
    run.until(reached.exists)
    run.send(signal.SIGTERM)
    run.exit_code()
    # Rank 0 was waiting inside a collective, where Python runs no signal handlers.
    assert (run.run["outcome"], run.run["last_step"]) == ("interrupted", 1)
    assert run.run["resume_command"] in run.stderr


@contextmanager
def handlers_kept():
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_signal_handlers_are_restored(one_rank):
    with handlers_kept(), pytest.raises(Interrupted) as stop, StopRequest(one_rank):
        signal.raise_signal(signal.SIGTERM)
    assert stop.value.exit_code == 143


def test_an_ignored_signal_stays_ignored(one_rank):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handlers_kept(), StopRequest(one_rank):
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_outside_the_main_thread_no_handler_is_touched(one_rank):
    handles = []

    def run():
        with StopRequest(one_rank) as stop:
            handles.append(stop.handles_signals)

    with handlers_kept():
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert handles == [False]


def test_the_first_signal_waits_for_the_end_of_a_step_and_the_second_does_not(one_rank, capfd):
    with StopRequest(one_rank) as stop:
        stop.wait_for_steps()
        assert stop.agreed() is None
        signal.raise_signal(signal.SIGINT)
        assert stop.agreed() == signal.SIGINT
        assert "press Ctrl-C again" in capfd.readouterr().err
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGINT)


def test_after_the_loss_of_a_rank_a_signal_ends_the_step_at_once(one_rank):
    with StopRequest(one_rank, urgent=lambda: True) as stop:
        stop.wait_for_steps()
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGTERM)


def test_only_the_user_can_interrupt_the_end_of_a_run(one_rank, monkeypatch):
    with StopRequest(one_rank) as stop:
        stop.over = True
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGTERM)
        monkeypatch.setattr(one_rank, "world_size", 2)
        signal.raise_signal(signal.SIGTERM)  # from a launcher, because another rank has finished


RESTORED = "import os, signal, sys; signal.signal({number}, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
"""Restores the signal's default first: the tests may run with it ignored, as under `nohup`."""


@pytest.mark.train
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_run_saves_even_if_its_terminal_is_gone(number, tiny_run, tmp_path):
    folder = tmp_path / "run"
    options = tiny_run({"trainer.steps": 200, "evaluation.prompts": 0, "run_folder": str(folder)})
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    reader, writer = os.pipe()
    command = [sys.executable, "-c", RESTORED.format(number=int(number)), *ONE_PROCESS, *options]
    with subprocess.Popen(command, stdout=writer, stderr=writer, env=environment) as run:
        os.close(writer)
        metrics, limit = folder / "metrics.jsonl", time.monotonic() + 300
        while not metrics.exists() or metrics.read_bytes().count(b"\n") < 2:
            assert time.monotonic() < limit
            time.sleep(0.05)
        os.close(reader)  # as `tee` does when the same Ctrl-C ends it
        run.send_signal(number)
        assert run.wait(timeout=300) == 128 + number
    found = json.loads((folder / "run.json").read_text())
    assert found["outcome"] == "interrupted"
    assert checkpoints(folder) == [f"step_{found['last_step']:06d}"]
