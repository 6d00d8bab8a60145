"""Runs on two processes, by every launcher, give the numbers of one process."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.ranks

MODULE = ["-m", "skyrl_train.entrypoints.main_base"]
BIN = Path(sys.executable).parent
LAUNCHERS = {
    "skyrl train": [str(BIN / "skyrl"), "train", "--num-processes", "2"],
    "accelerate with deepspeed": [
        str(BIN / "accelerate"),
        "launch",
        "--num_processes",
        "2",
        "--use_deepspeed",
        *MODULE,
    ],
    "torchrun": [str(BIN / "torchrun"), "--nproc-per-node", "2", *MODULE],
    "deepspeed": [str(BIN / "deepspeed"), "--num_gpus", "2", "--module", *MODULE[1:]],
}


def accelerator(command):
    """The environment that makes the launcher of deepspeed use the CPU; otherwise it counts GPUs."""
    return {"DS_ACCELERATOR": "cpu"} if "deepspeed" in command[0] and not torch.cuda.is_available() else {}


def launched(command, folder, options, **environment):
    return subprocess.run(
        [*command, *options, f"run_folder={folder}"],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment | accelerator(command),
        timeout=300,
        check=False,
    )


def train_rows(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "train"]


COPY_METRICS = {"mismatch_kl", "mismatch_ratio_max", "probe_deviation"}
"""Logged if the rollout engine holds a copy of the weights, as on ZeRO stage 3."""


@pytest.fixture(scope="module")
def one_process(tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one_process") / "run"
    done = launched([sys.executable, *MODULE], folder, tiny_run({"trainer.minibatches": 2}))
    assert done.returncode == 0, done.stderr
    return train_rows(folder)


@pytest.mark.parametrize(("launcher", "stage"), [(name, 2) for name in LAUNCHERS] + [("torchrun", 3)])
def test_two_ranks_give_the_numbers_of_one(launcher, stage, one_process, tiny_run, tmp_path):
    options = tiny_run({"trainer.minibatches": 2, "trainer.deepspeed.zero_stage": stage})
    # With this flag, which `accelerate launch --cpu` sets, accelerate would silently train with DDP: the trainer
    # refuses anything but DeepSpeed.
    done = launched(LAUNCHERS[launcher], tmp_path / "run", options, ACCELERATE_USE_CPU="true")
    assert done.returncode == 0, done.stderr[-3000:]
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["world_size"] == 2
    first, wanted = train_rows(tmp_path / "run")[0], one_process[0]
    assert first.keys() - COPY_METRICS == wanted.keys()
    assert first["reward/mean"] == wanted["reward/mean"]
    for name in ("loss/total", "grad_norm", "ratio_max", "approx_kl", "response_length/mean"):
        assert first[name] == pytest.approx(wanted[name], rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize("stage", [2, 3])
def test_two_ranks_train_adapters_as_one_does(stage, tiny_run, tmp_path):
    adapters = {"trainer.lora.rank": 4, "trainer.algorithm.kl_coef": 0.1, "trainer.optimizer.learning_rate": 1e-3}
    options = tiny_run({"trainer.minibatches": 2, "trainer.deepspeed.zero_stage": stage, **adapters})
    rows = []
    for name, command in (("one", [sys.executable, *MODULE]), ("two", LAUNCHERS["torchrun"])):
        done = launched(command, tmp_path / name, options)
        assert done.returncode == 0, done.stderr[-3000:]
        rows.append(train_rows(tmp_path / name))
    one, two = rows
    assert one[1]["kl"] > 0  # the adapters have moved, and the reference has not
    for first, wanted in zip(two, one, strict=True):
        for name in ("loss/total", "grad_norm", "kl", "ratio_max", "response_length/mean"):
            assert first[name] == pytest.approx(wanted[name], rel=1e-3, abs=1e-5), name


FALLING = {"schedule": "linear", "start": 0.2, "end": 0.0, "steps": 8}


def test_two_ranks_agree_where_statistics_of_the_minibatch_and_a_state_decide(tiny_run, tmp_path):
    options = tiny_run(
        {
            "trainer.minibatches": 2,
            "trainer.algorithm.policy_loss_type": "sum",
            "trainer.algorithm.sum.terms": [
                {"loss": "entropy_reg", "params": {"target_entropy": 0.3, "clip_high": FALLING | {"end": 0.1}}},
                {"loss": "clip_cov", "params": {"clip_cov_ratio": 0.1, "clip_cov_lb": -9.0, "clip_cov_ub": 9.0}},
            ],
            "trainer.algorithm.advantage_estimator": "reinforce_pp",
            "trainer.algorithm.kl_reward_coef": 0.05,
            "trainer.algorithm.high_entropy_fraction": 0.5,
            "trainer.algorithm.off_policy.weight": "sequence",
        }
    )
    rows = []
    for name, command in (("one", [sys.executable, *MODULE]), ("two", LAUNCHERS["torchrun"])):
        done = launched(command, tmp_path / name, options)
        assert done.returncode == 0, done.stderr[-3000:]
        rows.append(train_rows(tmp_path / name))
        states = json.loads((tmp_path / name / "checkpoints/step_000002/manifest.json").read_text())["progress"]
        rows[-1].append({"step": "state", **states["loss_state"]})
    one, two = rows
    # All metrics of the first step; of the second only those that do not depend on single samples.
    for name, value in one[0].items():
        if isinstance(value, float) and not name.startswith(("time", "tokens_per")):
            assert two[0][name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    assert two[-1]["entropy_reg/entropy_coef"] == pytest.approx(one[-1]["entropy_reg/entropy_coef"])


def test_an_error_on_all_ranks_is_printed_once(tiny_run, tmp_path):
    done = launched(LAUNCHERS["torchrun"], tmp_path / "run", tiny_run({"trainer.stepz": 3}))
    assert done.returncode != 0
    assert done.stderr.count("trainer.stepz = 3: unknown option") == 1


def test_more_ranks_than_prompts_train(tiny_run, tmp_path):
    options = tiny_run(
        {"trainer.prompts_per_step": 1, "evaluation.prompts": 1, "trainer.deepspeed.zero_stage": 3, "trainer.steps": 1}
    )
    done = launched(LAUNCHERS["torchrun"], tmp_path / "run", options)
    assert done.returncode == 0, done.stderr[-3000:]
    assert train_rows(tmp_path / "run")[0]["response_length/mean"] > 0


FAILS_ON_ONE_RANK = """\
import os
from skyrl_train.entrypoints.main_base import main

if __name__ == "__main__":
    from skyrl_core.errors import SkyrlError
    from skyrl_train.step.rollout import RolloutCollector

    sample = RolloutCollector.sample

    def fail_on_one_rank(self, *arguments):
        if os.environ["RANK"] == "1":
            raise SkyrlError("the prompts of this rank are gone")
        return sample(self, *arguments)

    RolloutCollector.sample = fail_on_one_rank
    main()
"""


def test_an_error_of_one_rank_ends_the_others_at_once_without_a_traceback(tiny_run, tmp_path):
    script = tmp_path / "fails.py"
    script.write_text(FAILS_ON_ONE_RANK)
    command = [str(BIN / "torchrun"), "--nproc-per-node", "2", str(script)]
    done = launched(command, tmp_path / "run", tiny_run({"evaluation.prompts": 0}))
    assert done.returncode != 0
    assert "[rank 1] error: the prompts of this rank are gone" in done.stderr
    assert "[rank 0] error: rank 1 failed: the prompts of this rank are gone" in done.stderr
    assert "rank0]: Traceback" not in done.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())["outcome"] == "failed"


FULL_DISK = """\
import os
from skyrl_train.entrypoints.main_base import main

if __name__ == "__main__":
    from skyrl_train.trainer_engine.snapshot import Snapshot

    write = Snapshot.write

    def full_on_one_rank(self, before_each):
        if os.environ["RANK"] == "1" and any("000002" in str(path) for path in self.files):
            raise OSError(28, "No space left on device")
        write(self, before_each)

    Snapshot.write = full_on_one_rank
    main()
"""


def test_a_full_disk_on_one_rank_ends_all_and_the_earlier_checkpoint_stays(tiny_run, tmp_path):
    script = tmp_path / "full_disk.py"
    script.write_text(FULL_DISK)
    command = [str(BIN / "torchrun"), "--nproc-per-node", "2", str(script)]
    options = tiny_run({"checkpoint.every": 1, "evaluation.prompts": 0})
    done = launched(command, tmp_path / "run", options)
    assert done.returncode != 0
    assert re.search(r"step_000002: No space left on device \(.*\); earlier checkpoints are intact", done.stderr)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["outcome"] == "failed"
    assert run["resume_command"].startswith("torchrun --nproc-per-node 2 ")
    checkpoints = tmp_path / "run" / "checkpoints"
    assert [path.name for path in checkpoints.glob("step_*")] == ["step_000001"]
    # The same run, after freeing space.
    resumed = launched([*LAUNCHERS["torchrun"], "--resume", str(tmp_path / "run")], tmp_path / "run", options)
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert [row["step"] for row in train_rows(tmp_path / "run")] == [1, 2]
    assert sorted(path.name for path in checkpoints.iterdir()) == ["latest", "step_000001", "step_000002"]
