"""The scripts themselves, in forms so small that their times mean nothing: no test here looks at one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
IMPORTED = ("alternation", "processes", "record")
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in IMPORTED)


def run(name, *options):
    """A script to its end; 1 says that a goal is missed, as it may be in so small a form."""
    command = [sys.executable, str(FOLDER / f"{name}.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    assert done.stdout, done.stderr
    return done


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_says_what_it_can_do_and_writes_only_when_asked(name):
    done = run(name, "--help")
    assert done.returncode == 0
    assert "--write" in done.stdout


def test_the_listing_is_measured_with_and_without_other_distributions():
    output = run("listing", "--runs", "1", "--distributions", "3").stdout
    assert "`skyrl losses list`, as installed" in output
    assert "`skyrl losses list`, with 3 more" in output


def test_a_wrong_parameter_is_measured_beside_torch():
    output = json.loads(run("bad_parameter", "--rounds", "1", "--json").stdout)
    wrong, torch = output["seconds"].values()
    assert output["ratio"] == wrong[0] / torch[0]


@pytest.mark.train
def test_the_same_imports_are_those_of_a_real_run(script, tmp_path):
    start = script("training_start").Start(tmp_path, "standard")
    assert {"torch", "transformers", "deepspeed", "accelerate"} <= set(start.packages)
    assert {"deepspeed.runtime.engine", "transformers.models.qwen2.modeling_qwen2"} <= set(start.modules)
    assert [name for name in start.modules if name.startswith(("skyrl", "first_rollout"))] == []
    assert not {"json", "importlib"} & set(start.packages)


def test_memory_by_arithmetic(script):
    memory = script("memory")
    # Weights, gradients, AdamW's moments, and the copy that DeepSpeed updates: 4 + 4 + 8 + 4, all sharded but weights.
    assert memory.arithmetic(1, 0, "fp32") == 4 + 4 + 8
    assert memory.arithmetic(2, 2, "fp32") == 4 + (4 + 8 + 4) / 2
    assert memory.arithmetic(2, 3, "bf16") == (2 + 2 + 8 + 4) / 2


def test_memory_is_recorded_beside_the_arithmetic(script):
    memory = script("memory")
    measured = {(1, 0): 20.0, (2, 2): 15.0, (2, 3): 12.0}
    cells = [
        {"ranks": ranks, "stage": stage, "precision": "fp32", "with_gradients": value}
        for (ranks, stage), value in measured.items()
    ]
    # 12 and 10 bytes of 16: see above.
    assert [(row.result, row.limit) for row in memory.rows(cells)] == [("0.75", "0.75"), ("0.60", "0.62")]


def test_a_curve_is_recorded_by_its_ends_and_its_mean(script):
    learning = script("learning")
    curves = [
        learning.Curve("gspo", seed, {0: first, 10: 0.9, 20: last}, 0.01, 60.0)
        for seed, first, last in ((0, 0.4, 0.7), (1, 0.5, 0.8))
    ]
    (row,) = learning.rows(curves)
    assert (row.result, row.goal) == ("0.450 → 0.750", "≥ 0.78")
    assert "| **gspo** | **minimum** | 0.400 | 0.900 | 0.700 | |" in learning.report(curves)


def test_the_largest_deviation_is_recorded_beside_what_float32_leaves_open(script):
    exactness = script("exactness")
    cells = [
        {"loss": loss, "lora": False, "stage": stage, "deviation": deviation}
        for loss, stage, deviation in (("a", None, 3e-7), ("a", 2, 5e-7), ("b", None, 2e-7), ("b", 3, 4e-7))
    ]
    row = exactness.row(cells)
    assert (row.result, row.limit, row.goal) == ("5.0e-07", "3.0e-07", "≤ 1e-06")
    assert "2 losses" in row.measure
