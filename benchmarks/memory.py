"""Memory of a rank in training, for each ZeRO stage and number of ranks, compared with arithmetic.

*With gradients* is measured after the last backward pass of a step, *between steps* after the optimizer step; *peak* is
the maximum over two steps. All are bytes per parameter of a Qwen2 with 120 million parameters, beyond the memory of the
process before it built the model: anonymous resident memory on a CPU, of the largest rank, after all freed memory has
returned to the system. The peak also counts files that were read.

*Arithmetic* is the memory of the model states with gradients. In fp32 these are 4 bytes of weights, 4 of gradients, 8
of AdamW's moments, and on stages 1 to 3 another 4 for the float32 weights that DeepSpeed updates, which it stores
separately even if the weights are float32. In bf16, weights and gradients take 2 bytes, and every stage, including 0,
stores those float32 weights. Stage 1 shards moments and float32 weights, and gradients after the last micro-batch;
stage 2 always shards gradients; stage 3 also shards the weights. *DeepSpeed* is DeepSpeed's estimate, which covers only
stages 2 and 3 and assumes 16-bit weights.

The measurements exceed the arithmetic by memory that is not a model state: about 0.6 bytes for the activations of eight
tokens, the allocator and gathered pieces, and on stage 3 the bucket through which gradients are reduced. That bucket
holds up to 5e8 gradients (DeepSpeed's `reduce_bucket_size`), here another copy of all: 4 or 2 bytes that are not
sharded, and never more than 2 GB. The peak occurs in the optimizer step, which makes copies.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from record import Row, record

STAGES = (0, 1, 2, 3)
RANKS = (1, 2)
PRECISIONS = ("fp32", "bf16")
WORKER = Path(__file__).parent / "workers" / "footprint.py"

# Every freed block of at least 64 KiB returns to the system, whatever thresholds the allocator has adapted to.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}


def measure(ranks: int, stage: int, precision: str) -> dict[str, Any]:
    """The bytes of the largest rank, measured in new processes."""
    launcher = [] if ranks == 1 else ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command = [sys.executable, *launcher, str(WORKER), str(stage), precision]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | ENVIRONMENT, check=False)
    if result.returncode:
        sys.exit(f"stage {stage} on {ranks} ranks failed:\n{result.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(next(line for line in result.stdout.splitlines() if line.startswith("{")))
    return found | {"ranks": ranks, "stage": stage, "precision": precision}


def measure_all() -> list[dict[str, Any]]:
    """Every cell in table order; two processes at a time, because memory does not depend on speed."""
    wanted = [(ranks, stage, precision) for precision in PRECISIONS for stage in STAGES for ranks in RANKS]
    found = {}
    for ranks in RANKS:
        chosen = [cell for cell in wanted if cell[0] == ranks]
        with ThreadPoolExecutor(max(RANKS) // ranks) as pool:
            found |= zip(chosen, pool.map(measure, *zip(*chosen, strict=True)), strict=True)
    return [found[cell] for cell in wanted]


def arithmetic(ranks: int, stage: int, precision: str) -> float:
    """Bytes per parameter; sharded states are divided by the number of ranks."""
    weights = gradients = 4 if precision == "fp32" else 2
    moments, copy = 8, 4 if stage or precision == "bf16" else 0
    states = moments + copy + gradients
    sharded = {0: 0, 1: states, 2: states, 3: states + weights}[stage]
    return weights + gradients + moments + copy - sharded + sharded / ranks


def estimate(found: dict[str, Any]) -> float | None:
    """DeepSpeed's estimate of the device memory of a rank, in bytes per parameter."""
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

    settings = {"total_params": found["parameters"], "num_gpus_per_node": found["ranks"], "cpu_offload": False}
    if found["stage"] == 2:
        return float(estimate_zero2_model_states_mem_needs(**settings)[1]) / found["parameters"]
    if found["stage"] == 3:
        largest = found["largest_layer"]
        needs = estimate_zero3_model_states_mem_needs(
            largest_layer_params=largest, cpu_offload_params=False, **settings
        )
        return float(needs[1]) / found["parameters"]
    return None


def table(cells: list[dict[str, Any]]) -> str:
    """Markdown: one row per precision, stage and number of ranks; ratios are to stage 0, one rank, fp32."""
    heads = [
        "precision",
        "ZeRO",
        "ranks",
        "with gradients",
        "arithmetic",
        "DeepSpeed",
        "between steps",
        "peak",
        "ratio",
    ]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    known = _unsharded(cells)["with_gradients"]
    for cell in cells:
        where = cell["ranks"], cell["stage"], cell["precision"]
        own = estimate(cell)
        measured = [f"{cell[name] / cell['parameters']:.1f}" for name in ("with_gradients", "between_steps", "peak")]
        values = [
            cell["precision"],
            cell["stage"],
            cell["ranks"],
            measured[0],
            f"{arithmetic(*where):.1f}",
            "-" if own is None else f"{own:.1f}",
            *measured[1:],
            f"{cell['with_gradients'] / known:.2f}",
        ]
        lines.append("| " + " | ".join(map(str, values)) + " |")
    return "\n".join(lines)


def rows(cells: list[dict[str, Any]]) -> list[Row]:
    """The savings of two ranks on the stages that shard gradients, measured and by arithmetic."""
    known, unsharded = _unsharded(cells)["with_gradients"], arithmetic(1, 0, "fp32")
    chosen = [cell for cell in cells if cell["ranks"] == 2 and cell["stage"] in (2, 3)]
    return [
        Row(
            measure=f"memory of a rank, {cell['precision']}, ZeRO-{cell['stage']}, 2 ranks / fp32, no ZeRO, 1 rank",
            result=f"{cell['with_gradients'] / known:.2f}",
            limit=f"{arithmetic(2, cell['stage'], cell['precision']) / unsharded:.2f}",
        )
        for cell in chosen
    ]


def write(cells: list[dict[str, Any]]) -> None:
    """Write the results and the summary table."""
    how = (__doc__ or "").split("\n", 2)[2].strip()
    packages = ("torch", "deepspeed", "transformers")
    record("memory", rows(cells), f"# Memory of a rank\n\n{how}\n\n{table(cells)}", packages=packages)


def _unsharded(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """The cell that the ratios are relative to: nothing is sharded."""
    return next(c for c in cells if (c["precision"], c["stage"], c["ranks"]) == ("fp32", 0, 1))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the results and the summary table")
    arguments = parser.parse_args()
    cells = measure_all()
    print(table(cells))
    if arguments.write:
        write(cells)


if __name__ == "__main__":
    main()
