"""The run scripts of examples/algorithms, as they stand in their READMEs, with fewer and smaller steps."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ALGORITHMS = Path(__file__).parents[2] / "examples" / "algorithms"
SCRIPTS = sorted(ALGORITHMS.glob("*/run_*.sh"))
SMALL = [
    "trainer.steps=1",
    "trainer.prompts_per_step=4",
    "trainer.samples_per_prompt=2",
    "trainer.threads=1",
    "evaluation.prompts=4",
]


def run(script, folder, *arguments, **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    return subprocess.run(
        ["bash", str(script), *arguments, *SMALL],
        cwd=folder,
        env=clean | {"OMP_NUM_THREADS": "1", "NETRC": str(folder / "no-netrc")} | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.train
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.parent.name)
def test_a_run_script_trains(script, tmp_path):
    done = run(script, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Finished after step 1" in done.stdout
    assert list(tmp_path.glob("runs/*/report.html"))


CUSTOM = ALGORITHMS / "custom_policy_loss" / "run_custom_policy_loss.sh"


@pytest.mark.train
def test_without_a_key_wandb_is_offline_and_says_so(tmp_path):
    done = run(CUSTOM, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (done.stdout + done.stderr).count("`wandb sync ") == 1


@pytest.mark.train
def test_with_a_key_wandb_writes_the_run(tmp_path):
    done = run(CUSTOM, tmp_path, WANDB_API_KEY="0" * 40, WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr[-3000:]
    assert list(tmp_path.rglob("*.wandb"))


@pytest.mark.train
def test_the_parameter_from_the_command_line_reaches_the_loss(tmp_path):
    done = run(CUSTOM, tmp_path, "+trainer.algorithm.my_custom_loss.my_param=1.25")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "my_param: 1.25" in next(tmp_path.glob("runs/*/config.yaml")).read_text()


GSM8K = Path(os.environ.get("SKYRL_GSM8K", ALGORITHMS.parents[2] / "shared" / "data" / "gsm8k"))


@pytest.mark.train
@pytest.mark.skipif(
    not (GSM8K / "test.jsonl").is_file(), reason="real GSM8K is not here: set SKYRL_GSM8K to its folder"
)
@pytest.mark.parametrize("script", [CUSTOM, ALGORITHMS / "gspo" / "run_gspo.sh"], ids=lambda path: path.parent.name)
def test_with_data_a_run_script_trains_on_real_gsm8k(script, tmp_path):
    prepare = ALGORITHMS.parent / "gsm8k" / "gsm8k_dataset.py"
    subprocess.run(
        [sys.executable, str(prepare), "--source", str(GSM8K)], cwd=tmp_path, check=True, capture_output=True
    )
    done = run(script, tmp_path, "--data", "data/gsm8k", "rollout.max_new_tokens=32")
    assert done.returncode == 0, done.stderr[-3000:]
    record = next(tmp_path.glob("runs/*/rollouts/*.jsonl")).read_text().splitlines()[0]
    assert "Think step by step" in record


@pytest.mark.ranks
def test_a_loss_of_a_script_trains_on_two_ranks(tmp_path):
    done = run(CUSTOM, tmp_path, "--ranks", "2")
    assert done.returncode == 0, done.stderr[-3000:]
    assert '"world_size": 2' in next(tmp_path.glob("runs/*/run.json")).read_text()
