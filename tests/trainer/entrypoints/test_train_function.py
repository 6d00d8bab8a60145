"""`train` from Python: configurations, results, errors, interruption, and a process that continues as before."""

import gc
import logging
import os
import random
import signal
import sys
import threading
import warnings
from pathlib import Path

import pandas as pd
import pytest
import torch

from skyrl_core import LossParams, PolicyLoss, TokenLosses
from skyrl_core.errors import InvalidParamsError, PluginError, SkyrlError, UnknownPluginError
from skyrl_core.registry import LOSSES
from skyrl_train import TrainingRun, train
from skyrl_train.entrypoints.train_function import resolve

TINY = {
    "trainer": {"steps": 1, "prompts_per_step": 4, "samples_per_prompt": 4, "threads": 1},
    "rollout.max_new_tokens": 24,
    "evaluation": {"prompts": 8, "samples_per_prompt": 1},
    "tracking.trackers": [],
}
RUNS = int(os.environ.get("SKYRL_TEST_RUNS", "4"))
"""Runs in one process; `nox -s notebook` makes ten."""


@pytest.fixture(autouse=True)
def _nothing_is_registered(monkeypatch):
    monkeypatch.setattr(LOSSES, "_registered", {})


def resolved(config=None, loss=None, environment=None, resume=None, **overrides):
    return resolve(config, loss, environment, resume, accept_loss_change=False, overrides=overrides)


class Minus(PolicyLoss):
    name = "minus"
    api_version = semantics_version = 1

    class Params(LossParams):
        scale: float = 1.0

    def token_losses(self, batch):
        ratio = (batch.log_probs - batch.old_log_probs).clamp(max=20).exp()
        return TokenLosses(values=-self.params.scale * ratio * batch.advantages)


def resident():
    """MiB of memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def process_state():
    return {
        "environment": dict(os.environ),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)],
        "root logger": (list(logging.root.handlers), logging.root.level),
        "DeepSpeed logger": logging.getLogger("DeepSpeed").level,
        "warnings": list(warnings.filters),
        "collector": (gc.isenabled(), gc.get_freeze_count()),
        "random": random.getstate(),
        "torch": torch.get_rng_state().tolist(),
        "threads": (torch.get_num_threads(), threading.active_count()),
        "group": torch.distributed.is_initialized(),
    }


def test_a_dict_a_file_a_preset_and_keywords_are_merged_in_order(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("model: tiny\ntrainer:\n  steps: 7\n  minibatches: 2\n")
    run = resolved(file, trainer={"steps": 3}, **{"trainer.optimizer.learning_rate": 1e-3}, seed=5)
    trainer = run.config.trainer
    assert (trainer.steps, trainer.minibatches, trainer.optimizer.learning_rate, run.config.seed) == (3, 2, 1e-3, 5)
    config = {"trainer.steps": 4, "trainer": {"epochs": 2}, "run_folder": tmp_path / "run"}
    run = resolved(config, environment={"workers": 2}, loss="gspo")
    assert (run.config.trainer.steps, run.config.trainer.epochs, run.config.environment.workers) == (4, 2, 2)
    assert run.config.run_folder == str(tmp_path / "run")
    assert run.loss.claim.name == "gspo"
    bare = resolved()
    assert bare.quickstart
    assert resolved("quickstart").config == bare.config == resolved({}).config


def test_the_parameters_of_an_instance_are_those_of_the_run_and_keywords_override_them():
    loss = Minus(Minus.Params(scale=0.5))
    assert resolved(loss=loss).loss.params == {"scale": 0.5}
    assert resolved(loss=loss, trainer={"algorithm": {"minus": {"scale": 2}}}).loss.params == {"scale": 2.0}


def test_every_problem_is_in_one_exception_with_its_origin():
    with pytest.raises(InvalidParamsError) as caught:
        resolved({"trainer": {"stepz": 1}}, sead=2, **{"rollout.top_p": 3})
    message = str(caught.value)
    assert "invalid configuration, 3 problems" in message
    assert "config argument  trainer.stepz = 1: unknown option; did you mean trainer.steps?" in message
    assert "keyword arguments  sead = 2: unknown option; did you mean seed?" in message
    assert "keyword arguments  rollout.top_p = 3" in message


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"loss": "gspoo"}, UnknownPluginError, "did you mean 'gspo'"),
        ({"loss": "gspo", "trainer.algorithm.policy_loss_type": "cispo"}, SkyrlError, "contradicts loss='gspo'"),
        ({"config": "nowhere.yaml"}, SkyrlError, "nowhere.yaml: no such file"),
        ({"config": 3}, SkyrlError, "config = 3: pass a dict"),
        ({"data.train": "nowhere.jsonl"}, SkyrlError, "the run cannot start on this machine"),
        ({"resume": "nowhere"}, SkyrlError, "nothing to resume"),
    ],
)
def test_an_error_is_an_exception_and_never_an_exit(arguments, kind, message):
    with pytest.raises(kind, match=message):
        train(**arguments)


@pytest.mark.train
def test_runs_with_different_losses_leave_the_process_as_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = train(loss="dual_clip", **TINY)  # the first one imports the libraries
    before, memory, tasks = process_state(), resident(), len(os.listdir("/proc/self/task"))
    runs = [first]
    for number in range(1, RUNS):
        runs.append(train(loss=Minus if number % 2 else "entropy_reg", **TINY))
    assert process_state() == before
    assert len(os.listdir("/proc/self/task")) == tasks
    assert resident() < memory + 5 * RUNS
    names = [run.record["loss"]["name"] for run in runs]
    assert names == (["dual_clip", "minus", "entropy_reg", *["minus", "entropy_reg"] * RUNS])[:RUNS]
    assert len({run.folder for run in runs}) == RUNS
    check_results(runs[1])


def check_results(run):
    """What a finished run reports."""
    assert (run.outcome, run.steps) == ("finished", 1)
    assert isinstance(run.history, pd.DataFrame)
    assert list(run.history.index) == [1]
    assert run.history["grad_norm"].item() > 0
    assert list(run.evaluations.index) == [0, 1]
    assert run.before["accuracy"] == run.evaluations.loc[0, "accuracy"]
    assert run.after["accuracy"] == run.evaluations.loc[1, "accuracy"]
    assert run.checkpoint == run.folder / "checkpoints" / "step_000001"
    assert "finished after 1 step, " in str(run)
    assert "loss:        script:minus@1" in str(run)
    assert str(run.folder) in run._repr_html_()
    assert "script:minus@1" in run.report()._repr_html_()
    assert TrainingRun(run.folder).after == run.after


@pytest.mark.train
def test_an_interrupt_ends_the_run_after_the_step_and_it_can_be_resumed(tmp_path, capfd):
    class Interrupts(Minus):
        name, Params = "interrupts", Minus.Params
        api_version = semantics_version = 1

        def after_step(self, metrics):
            if not sent:  # a second signal would end the run in the middle of the step
                sent.append(os.kill(os.getpid(), signal.SIGINT))

    sent = []
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as caught:
        train(loss=Interrupts, run_folder=tmp_path / "run", **TINY | {"trainer.steps": 3})
    assert signal.getsignal(signal.SIGINT) is before
    run = caught.value.run
    assert (run.outcome, run.steps) == ("interrupted", 1)
    resume = f"skyrl_train.train(resume={str(tmp_path / 'run')!r})"
    assert run.record["resume_command"] == resume
    assert resume in capfd.readouterr().err
    done = train(resume=run)
    assert (done.folder, done.outcome, done.steps) == (run.folder, "finished", 3)


@pytest.mark.train
def test_a_failure_of_a_loss_is_a_plugin_error_and_names_the_run_folder(tmp_path):
    class Fails(Minus):
        name, Params = "fails", Minus.Params
        api_version = semantics_version = 1

        def after_step(self, metrics):
            sys.exit(0)

    had_group = torch.distributed.is_initialized()
    reason = r"policy loss 'fails' \(script\) failed in after_step, optimizer step 1: SystemExit: 0"
    with pytest.raises(PluginError, match=reason) as caught:
        train(loss=Fails, run_folder=tmp_path / "run", **TINY)
    assert isinstance(caught.value.__cause__, SystemExit)
    traceback = tmp_path / "run" / "traceback.txt"
    assert f"complete traceback: {traceback}" in caught.value.__notes__
    assert "in after_step\n    sys.exit(0)" in traceback.read_text()
    assert caught.value.__notes__[-1] == f"run folder: {tmp_path / 'run'}"
    assert TrainingRun(tmp_path / "run").outcome == "failed"
    assert torch.distributed.is_initialized() == had_group
