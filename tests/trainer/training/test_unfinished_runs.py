"""Failures for outside reasons never lose trained steps: evaluations leave a gap, errors between steps a checkpoint."""

import json

import pytest

from skyrl_core.errors import SkyrlError
from skyrl_train.entrypoints.main_base import main
from skyrl_train.rollout.vllm_server.client import ServerLostError
from skyrl_train.step.objective import Objective
from skyrl_train.step.weight_sync import WeightSync
from skyrl_train.tracking.console import Console

JUDGE = """
from pathlib import Path
from skyrl_core.errors import SkyrlError

DOWN = Path(__file__).parent / "down"

def reward(completion, row):
    if row.extra["judge"] in DOWN.read_text().split():
        raise ConnectionError("the judge does not answer")
    return float(len(completion.text) % 3)
"""


@pytest.fixture
def judged(tmp_path):
    """Options of a run whose judges fail once their name is in the file ``down``."""
    (tmp_path / "judge.py").write_text(JUDGE)
    (tmp_path / "down").write_text("")
    sources = {}
    for name in ("train", "first", "second"):
        rows = [{"prompt": f"{name} {i} + {i}?", "ground_truth": str(2 * i), "judge": name} for i in range(32)]
        (tmp_path / name).with_suffix(".jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        sources[name] = str(tmp_path / f"{name}.jsonl")
    return {
        "environment.name": f"{tmp_path / 'judge.py'}:reward",
        "data.train": sources.pop("train"),
        "data.evaluation": sources,
        "trainer.steps": 3,
        "trainer.micro_batch_size": 8,
        "evaluation.prompts": 2,
        "rollout.max_new_tokens": 8,
        "run_folder": str(tmp_path / "run"),
    }


def lines(folder):
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in entry.items() if not k.startswith(("time", "tokens_per"))} for entry in entries]


def test_an_evaluation_set_that_fails_is_a_message_and_a_gap(judged, tiny_run, tmp_path, capfd):
    (tmp_path / "down").write_text("second")
    assert main(tiny_run(judged | {"evaluation.every": 1, "trainer.steps": 2})) == 0
    evaluations = [line for line in lines(tmp_path / "run") if line["kind"] == "evaluation"]
    assert [line["step"] for line in evaluations] == [0, 1, 2]
    assert all("first/reward/mean" in line and "second/reward/mean" not in line for line in evaluations)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (run["outcome"], [failed["step"] for failed in run["failed_evaluations"]]) == ("finished", [0, 1, 2])
    assert (tmp_path / "run" / "checkpoints" / "step_000002").is_dir()
    shown = capfd.readouterr().out
    assert "the evaluation before training failed: second: no answer of the evaluation could be rewarded" in shown
    assert f"the model is saved; measure it with: skyrl eval {tmp_path / 'run'}" in shown


def judge_goes_down(tmp_path, monkeypatch):
    log_step = Console.log_step

    def down_after_step_2(self, step, metrics):
        log_step(self, step, metrics)
        (tmp_path / "down").write_text("train" if step == 2 else "")

    monkeypatch.setattr(Console, "log_step", down_after_step_2)
    return SystemExit, "no sample of this step could be rewarded"


def tracker_refuses(tmp_path, monkeypatch):
    def refuse(self, step, metrics):
        if step == 2:
            raise SkyrlError("the quota of this project is used up")

    monkeypatch.setattr(Console, "log_step", refuse)
    return SystemExit, "the quota of this project is used up"


def loss_raises(tmp_path, monkeypatch):
    evaluate, calls = Objective.evaluate, []

    def raise_in_step_3(self, *arguments):
        calls.append(None)
        if len(calls) == 6:  # the second micro-batch of step 3, so some gradients exist
            raise RuntimeError("a bug in the loss")
        return evaluate(self, *arguments)

    monkeypatch.setattr(Objective, "evaluate", raise_in_step_3)
    return RuntimeError, "a bug in the loss"


def rollout_engine_is_lost(tmp_path, monkeypatch):
    update = WeightSync.update

    def lose(self, policy_version):
        if policy_version == 2:
            raise ServerLostError("the rollout server is gone")
        return update(self, policy_version)

    monkeypatch.setattr(WeightSync, "update", lose)
    return SystemExit, "the rollout server is gone"


@pytest.mark.parametrize("failing", [judge_goes_down, tracker_refuses, rollout_engine_is_lost, loss_raises])
def test_an_error_between_steps_leaves_a_checkpoint_from_which_the_run_resumes(
    failing, judged, tiny_run, tmp_path, capfd
):
    options = judged | {"evaluation.prompts": 0}
    with pytest.MonkeyPatch.context() as patch:
        kind, message = failing(tmp_path, patch)
        with pytest.raises(kind) as error:
            main(tiny_run(options))
    assert message in capfd.readouterr().err + str(error.value)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (run["outcome"], run["last_step"]) == ("failed", 2)
    assert run["checkpoint"].endswith("step_000002")
    assert [line["step"] for line in lines(tmp_path / "run")] == [1, 2]
    if failing is loss_raises:
        (tmp_path / "down").write_text("")
        assert main(tiny_run(options | {"run_folder": str(tmp_path / "unbroken")})) == 0
        assert main([*tiny_run(options), "--resume", str(tmp_path / "run")]) == 0
        assert lines(tmp_path / "run") == lines(tmp_path / "unbroken")
