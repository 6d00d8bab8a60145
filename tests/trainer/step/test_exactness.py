"""Gradients and optimizer steps are exact, for any micro-batch size, number of ranks and ZeRO stage: real DeepSpeed."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from skyrl_core.registry.loss_registry import policy_losses

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(1500)]

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "exactness.py"
LOSSES = [claim.name for claim in policy_losses()]


def measured(stages, sizes, tokens, losses, **variants):
    command = [sys.executable, SCRIPT, "--json", "--stages", *stages, "--sizes", *sizes, "--tokens", *tokens]
    command += ["--losses", *losses]
    command += [
        word for variant in ("lora", "skipping", "sharing") for word in (f"--{variant}-losses", *variants[variant])
    ]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=1400, check=False)
    # 1: a deviation is beyond the bound; the test checks which one.
    assert result.returncode in (0, 1), result.stdout[-2000:] + result.stderr[-4000:]
    assert result.stdout, result.stderr[-4000:]
    cells = json.loads(result.stdout)
    return [cell for cell in cells if "loss" in cell], [cell for cell in cells if "part" in cell]


def too_far(cells):
    return [cell for cell in cells if cell["stage"] is not None and not cell["deviation"] < 1e-6]


@pytest.mark.parametrize("stage", [0, 1])
def test_gradient_is_exact_for_all_micro_batches_and_ranks(stage):
    variants = {"lora": ["entropy_reg"], "skipping": ["dual_clip"], "sharing": ["gspo"]}
    cells, steps = measured([stage], [1, 4, 5, 64], [20, 100], ["entropy_reg", "gspo"], **variants)
    assert {(cell["ranks"], cell["ragged"]) for cell in cells if cell["stage"] is not None} == {
        (ranks, ragged) for ranks in (1, 2) for ragged in (False, True)
    }
    assert len(cells) == 2 * 5 * (4 + 2 + 1)
    assert too_far(cells) == []
    assert_exact_steps(steps, [stage])


def assert_exact_steps(cells, stages):
    """In both precisions: float64 AdamW's weights, moments and step count, so no step was made at initialisation."""
    parts = ("weights", "first moment", "second moment", "steps")
    assert {(c["precision"], c["ranks"], c["stage"], c["part"]) for c in cells} == {
        (precision, ranks, stage, part)
        for precision in ("fp32", "bf16")
        for ranks in (1, 2)
        for stage in stages
        for part in parts
    }
    assert too_far(cells) == []


def test_gradient_of_every_loss_is_exact_where_gradients_or_weights_are_sharded(capsys, monkeypatch):
    variants = {"lora": ["clip_cov"], "skipping": ["dual_clip", "clip_cov"], "sharing": ["entropy_reg", "gspo"]}
    cells, steps = measured([2, 3], [4, 5], [100], LOSSES, **variants)
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    specification = importlib.util.spec_from_file_location("exactness", SCRIPT)
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)
    with capsys.disabled():
        print(f"\n\nLargest deviation from the exact gradient, ZeRO 2 and 3\n\n{script.summary(cells)}\n")
    assert {cell["loss"] for cell in cells} == set(LOSSES)
    assert len(cells) == 2 * (len(LOSSES) + 5) * (2 * 3 + 1)
    assert too_far(cells) == []
    assert_exact_steps(steps, [2, 3])
