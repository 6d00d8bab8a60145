"""Complete runs: real model, real DeepSpeed, real files. One after the other in this process, to save the imports."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from skyrl_core import register_policy_loss
from skyrl_core.registry.loss_registry import policy_losses
from skyrl_train.config.load_config import resolve_run
from skyrl_train.entrypoints.main_base import main
from skyrl_train.environments.load_environment import load_environment

pytestmark = pytest.mark.train

VARYING = ("time", "tokens_per_second")


def steps(lines):
    """Metrics of the training steps, without times."""
    rows = [line for line in lines if line["kind"] == "train"]
    return {row["step"]: {k: v for k, v in row.items() if not k.startswith(VARYING)} for row in rows}


@pytest.fixture(scope="module")
def finished(train, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    options = {"trainer.algorithm.kl_coef": 0.05, "trainer.minibatches": 2, "trainer.epochs": 2, "checkpoint.every": 1}
    return folder, train(folder, **options)


def test_a_run_writes_its_complete_folder(finished):
    folder, lines = finished
    run = json.loads((folder / "run.json").read_text())
    assert run["outcome"] == "finished"
    assert run["loss"]["id"] == "skyrl-core:dual_clip@1"
    assert run["loss"]["params"] == {"clip_low": 0.2, "clip_high": 0.2, "clip_ratio_c": 3.0}
    assert run["packages"].keys() >= {"torch", "deepspeed", "skyrl-core", "skyrl-train"}
    assert [line["kind"] for line in lines] == ["evaluation", "train", "train", "evaluation"]
    assert sorted(path.name for path in (folder / "rollouts").iterdir()) == [
        "step_000001.jsonl",
        "step_000001.safetensors",
        "step_000002.jsonl",
        "step_000002.safetensors",
    ]
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == [
        "latest",
        "step_000001",
        "step_000002",
    ]
    assert "finished" in (folder / "report.html").read_text()


def test_the_resolved_config_gives_the_same_run(finished):
    folder, _ = finished
    again = resolve_run(load_environment, files=[folder / "config.yaml"])
    assert again.as_dict() == yaml.safe_load((folder / "config.yaml").read_text())


def test_a_step_logs_the_metrics_of_loss_and_trainer(finished):
    _, lines = finished
    first, second = (line for line in lines if line["kind"] == "train")
    assert first.keys() >= {
        "reward/mean",
        "loss/total",
        "loss/kl",
        "kl",
        "grad_norm",
        "learning_rate",
        "ratio_max",
        "clip_fraction_high",
        "response_length/mean",
        "zero_variance_groups",
        "time/rollout",
        "time/update",
        "tokens_per_second",
    }
    # The reference equals the policy until the first update, so the mean over the four updates is small.
    assert 0 <= first["kl"] < 0.01
    assert second["kl"] > 0


def test_text_and_tensors_of_the_samples_agree(finished):
    from safetensors.numpy import load_file

    folder, lines = finished
    records = [json.loads(line) for line in (folder / "rollouts/step_000002.jsonl").read_text().splitlines()]
    tensors = load_file(folder / "rollouts/step_000002.safetensors")
    assert len(records) == 16
    assert tensors["rewards"].tolist() == [record["reward"] for record in records]
    assert tensors.keys() >= {"old_log_probs", "ref_log_probs", "rollout_log_probs", "mask", "input_ids"}
    logged = next(line for line in lines if line["kind"] == "train" and line["step"] == 2)
    assert logged["reward/mean"] == pytest.approx(tensors["rewards"].mean())
    # Computed before the first of the step's four updates, so with the weights that sampled.
    difference = abs(tensors["old_log_probs"] - tensors["rollout_log_probs"])[tensors["mask"]]
    assert difference.max() < 1e-3
    assert abs(tensors["old_log_probs"] - tensors["ref_log_probs"])[tensors["mask"]].max() > 1e-3


FALLING = {"schedule": "linear", "start": 0.2, "end": 0.0, "steps": 8}
# All features that depend on the step or on earlier metrics: schedules, a loss that adapts, a composed loss.
CHANGING = {
    "trainer.algorithm.policy_loss_type": "sum",
    "trainer.algorithm.sum.terms": [
        {"loss": "entropy_reg@1", "params": {"target_entropy": 0.3, "clip_high": FALLING | {"end": 0.1}}},
        {"loss": "cross_entropy", "weight": FALLING},
        {"loss": "clip_cov", "weight": 0.1},
    ],
    "trainer.algorithm.advantage_estimator": "reinforce_pp",
    "trainer.algorithm.kl_coef": FALLING,
    "trainer.algorithm.kl_reward_coef": 0.05,
    "trainer.algorithm.entropy_coef": {"schedule": "cosine", "start": 0.0, "end": 0.01, "steps": 8},
    "trainer.algorithm.high_entropy_fraction": 0.5,
    "trainer.algorithm.off_policy": {"weight": "token", "band": "geometric", "band_low": 0.5, "band_high": 2.0},
    "rollout.temperature": {"schedule": "piecewise", "points": [[0, 1.2], [8, 0.8]]},
}


# The model without adapters is the reference.


@pytest.fixture(scope="module")
def changing(train, tmp_path_factory):
    folder = tmp_path_factory.mktemp("changing") / "run"
    return folder, train(folder, **CHANGING, **{"trainer.minibatches": 2})


def test_scheduled_values_of_the_first_optimizer_step_are_logged(changing):
    logged = steps(changing[1])
    assert [logged[step]["schedule/temperature"] for step in (1, 2)] == pytest.approx([1.2, 1.1])
    assert [logged[step]["schedule/kl_coef"] for step in (1, 2)] == pytest.approx([0.2, 0.15])
    assert [logged[step]["schedule/sum.terms.1.weight"] for step in (1, 2)] == pytest.approx([0.2, 0.15])
    assert logged[1]["schedule/entropy_coef"] == 0.0
    assert logged[2]["loss/entropy_bonus"] < 0


def test_value_and_gradient_norm_of_every_term_are_logged(changing):
    logged = steps(changing[1])[2]
    for term in ("entropy_reg", "cross_entropy", "clip_cov"):
        assert f"loss/{term}" in logged
        assert logged[f"grad_norm/{term}"] > 0
    parts = sum(logged[f"loss/{name}"] for name in ("entropy_reg", "cross_entropy", "clip_cov", "kl", "entropy_bonus"))
    assert logged["loss/total"] == pytest.approx(parts, abs=1e-6)
    assert logged["kl_reward/mean"] != 0
    assert 0 < logged["correction_kept"] <= 1


def test_a_composed_loss_is_recorded_with_the_files_of_its_parts(changing):
    parts = json.loads((changing[0] / "run.json").read_text())["loss"]["components"]
    assert [part["id"] for part in parts] == [
        "skyrl-loss-entropyreg:entropy_reg@1",
        "skyrl-core:cross_entropy@1",
        "skyrl-core:clip_cov@1",
    ]
    assert all(len(part["files_sha256"]) == 64 for part in parts)


def test_a_resumed_run_keeps_its_beginning_and_its_evaluations(train, tmp_path):
    options = CHANGING | {"trainer.steps": 4, "trainer.minibatches": 2, "checkpoint.every": 2}
    complete = train(tmp_path / "complete", **options)
    broken = tmp_path / "broken"
    shutil.copytree(tmp_path / "complete", broken)
    shutil.rmtree(broken / "checkpoints/step_000004")
    resumed = train(broken, "--resume", str(broken), **options)
    assert steps(resumed) == steps(complete)
    assert [line["step"] for line in resumed if line["kind"] == "evaluation"] == [0, 4]
    one, other = (json.loads((folder / "run.json").read_text()) for folder in (tmp_path / "complete", broken))
    assert other["before"] == one["before"]
    assert other["after"] == one["after"]
    assert other["started"] == one["started"]
    assert len(other["resumed"]) == 1


@pytest.mark.parametrize("loss", sorted(claim.name for claim in policy_losses()))
def test_every_installed_loss_trains(train, tmp_path, loss):
    options = {"trainer.algorithm.policy_loss_type": loss, "trainer.steps": 1, "evaluation.prompts": 0}
    lines = train(tmp_path / "run", **options)
    assert all(abs(row["loss/total"]) < 10 for row in steps(lines).values())


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_gradient_that_is_not_finite_ends_the_run_before_it_is_saved(tiny_run, tmp_path, capsys, stage):
    def later(log_probs, old_log_probs, advantages, masks, **kwargs):
        ratio = (log_probs - old_log_probs).exp()
        extra = (log_probs * 0).sqrt().sum() if stepped() else 0.0  # value 0, gradient 0 · inf
        return -(ratio * advantages * masks).sum() / masks.sum() + extra

    def stepped():
        metrics = tmp_path / "run" / "metrics.jsonl"
        return metrics.exists() and '"kind": "train"' in metrics.read_text()

    def seen():
        return {path.name for path in (tmp_path / "run" / "checkpoints").glob("step_*")}

    register_policy_loss(f"infinite_{stage}", later)
    options = {
        "trainer.algorithm.policy_loss_type": f"infinite_{stage}",
        "trainer.deepspeed.zero_stage": stage,
        "checkpoint.every": 1,
        "evaluation.prompts": 0,
        "run_folder": str(tmp_path / "run"),
    }
    with pytest.raises(SystemExit) as exit_code:
        main(tiny_run(options))
    assert exit_code.value.code == 2
    output = capsys.readouterr().err
    assert "the gradient of optimizer step 2 is" in output
    assert f"the loss infinite_{stage} gives values that are not finite" in output
    assert (tmp_path / "run/rollouts/step_000002.safetensors").exists(), "the batch that it failed on"
    assert seen() == {"step_000001"}
    assert json.loads((tmp_path / "run/run.json").read_text())["outcome"] == "failed"


def test_the_reference_is_the_policy_until_the_first_update(train, tmp_path):
    options = {"trainer.algorithm.kl_coef": 0.1, "trainer.algorithm.kl_estimator": "k3"}
    rows = steps(train(tmp_path / "run", **options, **{"evaluation.prompts": 0}))
    assert rows[1]["kl"] == pytest.approx(0.0, abs=1e-9)
    assert rows[2]["kl"] > 1e-9


def test_one_update_for_each_rollout_needs_no_old_log_probs(train, tmp_path):
    from safetensors.numpy import load_file

    train(tmp_path / "run", **{"trainer.steps": 1, "evaluation.prompts": 0})
    kept = load_file(tmp_path / "run/rollouts/step_000001.safetensors")
    assert not kept.keys() & {"old_log_probs", "ref_log_probs"}


def test_recomputed_activations_change_nothing(train, tmp_path):
    plain = train(tmp_path / "plain", **{"trainer.steps": 1})
    saving = train(tmp_path / "saving", **{"trainer.steps": 1, "trainer.deepspeed.gradient_checkpointing": True})
    for name in ("loss/total", "grad_norm", "approx_kl", "reward/mean"):
        assert steps(saving)[1][name] == pytest.approx(steps(plain)[1][name], rel=1e-5, abs=1e-6), name


def test_bfloat16_trains(train, tmp_path):
    lines = train(tmp_path / "run", **{"trainer.steps": 1, "trainer.deepspeed.precision": "bf16"})
    assert abs(steps(lines)[1]["loss/total"]) < 10


def test_micro_batches_change_nothing_but_rounding(train, tmp_path):
    rows = [
        steps(train(tmp_path / str(size), **{f"trainer.micro_batch_{kind}": size, "trainer.steps": 1}))[1]
        for kind, size in (("size", 3), ("size", 64), ("tokens", 100))
    ]
    for row in rows[1:]:
        assert rows[0]["loss/total"] == pytest.approx(row["loss/total"], abs=1e-6)
        assert rows[0]["grad_norm"] == pytest.approx(row["grad_norm"], rel=1e-5)


def test_a_second_run_in_the_same_folder_is_refused(finished, tiny_run, capsys):
    folder, _ = finished
    with pytest.raises(SystemExit) as exit_code:
        main([*tiny_run({}), f"run_folder={folder}"])
    assert exit_code.value.code == 2
    assert "not empty" in capsys.readouterr().err


def test_a_wrong_parameter_exits_with_4(tiny_run, capsys):
    with pytest.raises(SystemExit) as exit_code:
        main([*tiny_run({"trainer.algorithm.dual_clip.clip_low": 3})])
    assert exit_code.value.code == 4
    assert "clip_low = 3" in capsys.readouterr().err


def test_a_loss_that_breaks_the_contract_exits_with_6_before_training(tiny_run, tmp_path, capsys):
    def upside_down(log_probs, old_log_probs, advantages, masks, **kwargs):
        return ((log_probs - old_log_probs).exp() * advantages * masks).sum() / masks.sum()

    register_policy_loss("upside_down", upside_down)
    with pytest.raises(SystemExit) as exit_code:
        main(tiny_run({"trainer.algorithm.policy_loss_type": "upside_down", "run_folder": str(tmp_path / "run")}))
    assert exit_code.value.code == 6
    assert "gradient_sign" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "environment",
    [{"ACCELERATE_MIXED_PRECISION": "fp16"}, {"ACCELERATE_CONFIG_DS_FIELDS": "zero_stage,gradient_clipping"}],
    ids=["mixed precision", "DeepSpeed fields"],
)
def test_the_configuration_of_a_launcher_changes_no_number(train, tmp_path, monkeypatch, environment):
    options = {"trainer.steps": 1, "evaluation.prompts": 0}
    plain = train(tmp_path / "plain", **options)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert steps(train(tmp_path / "launched", **options)) == steps(plain)


def test_a_run_that_is_interrupted_again_still_names_its_checkpoint(train, tiny_run, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    train(folder, **{"trainer.steps": 1, "evaluation.prompts": 0})

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("skyrl_train.step.rollout.RolloutCollector.sample", interrupt)
    with pytest.raises(SystemExit) as exit_code:
        main([*tiny_run({"trainer.steps": 2, "evaluation.prompts": 0}), "--resume", str(folder)])
    assert exit_code.value.code == 130
    run = json.loads((folder / "run.json").read_text())
    assert run["outcome"] == "interrupted"
    assert run["checkpoint"] == str(folder / "checkpoints" / "step_000001")
    assert "--resume" in run["resume_command"]


def test_a_finished_run_resumed_by_mistake_stays_unchanged(finished, tiny_run, capsys):
    folder, _ = finished
    before = (folder / "run.json").read_bytes(), (folder / "metrics.jsonl").read_bytes()
    with pytest.raises(SystemExit) as exit_code:
        main(["--resume", str(folder)])
    assert exit_code.value.code == 2
    assert "nothing left to train" in capsys.readouterr().err
    assert ((folder / "run.json").read_bytes(), (folder / "metrics.jsonl").read_bytes()) == before


def test_a_run_killed_after_its_last_step_finishes(train, tmp_path):
    folder = tmp_path / "run"
    lines = train(folder, **{"trainer.steps": 1})
    wanted = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(wanted | {"outcome": "running", "after": None}))
    (folder / "report.html").unlink()
    assert train(folder, "--resume", str(folder), **{"trainer.steps": 1}) == lines
    ended = json.loads((folder / "run.json").read_text())
    assert {name: ended[name] for name in ("outcome", "before", "after", "last_step")} == {
        name: wanted[name] for name in ("outcome", "before", "after", "last_step")
    }
    assert (folder / "report.html").is_file()


def test_ctrl_c_stops_the_run_in_order_and_it_can_be_resumed(tiny_run, train, tmp_path):
    folder = tmp_path / "run"
    options = {"trainer.steps": 1000, "checkpoint.every": 1, "evaluation.prompts": 0}
    command = [sys.executable, "-m", "skyrl_train.entrypoints.main_base", *tiny_run(options), f"run_folder={folder}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 120
    latest = folder / "checkpoints/latest"  # which is never removed, unlike a checkpoint
    while not latest.exists() or latest.read_text() < "step_000002":
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    assert "--resume" in output
    assert json.loads((folder / "run.json").read_text())["outcome"] == "interrupted"
    summary = json.loads((folder / "run.json").read_text())
    assert summary["checkpoint"] == str(max((folder / "checkpoints").glob("step_*")))
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False)
    assert not children.stdout
    done = max(int(path.name[5:]) for path in (folder / "checkpoints").glob("step_*"))
    lines = train(folder, "--resume", str(folder), **(options | {"trainer.steps": done + 1}))
    assert [line["step"] for line in lines] == list(range(1, done + 2))


GSM8K = Path(os.environ.get("SKYRL_GSM8K", Path(__file__).parents[4] / "shared" / "data" / "gsm8k"))


@pytest.mark.skipif(
    not (GSM8K / "test.jsonl").is_file(), reason="real GSM8K is not here: set SKYRL_GSM8K to its folder"
)
def test_real_gsm8k_trains_end_to_end(train, tmp_path):
    script = Path(__file__).parents[3] / "examples/gsm8k/gsm8k_dataset.py"
    subprocess.run(
        [sys.executable, str(script), "--source", str(GSM8K), "--output", str(tmp_path)],
        check=True,
        capture_output=True,
    )
    options = {
        "environment.name": "gsm8k",
        "data.train": str(tmp_path / "train.parquet"),
        "data.evaluation": str(tmp_path / "test.parquet"),
        "evaluation.prompts": 50,
        "rollout.max_new_tokens": 32,
    }
    lines = train(tmp_path / "run", **options)
    evaluations = [line for line in lines if line["kind"] == "evaluation"]
    assert [line["step"] for line in evaluations] == [0, 2]
    assert all(0 <= line["accuracy"] <= 1 for line in evaluations)
    records = (tmp_path / "run/rollouts/step_000002.jsonl").read_text().splitlines()
    assert len(records) == 16
    assert all(json.loads(record)["error"] is None for record in records)
