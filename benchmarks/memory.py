"""Prints the memory of a rank in training, for each ZeRO stage and number of ranks, beside what should be there.

*With gradients* is measured after the last backward pass of a step, *between steps* after the optimizer step, *peak*
is the highest of two steps; all are bytes for each parameter of a Qwen2 with 120 million of them, above what the
process held before it built the model. That is anonymous resident memory of the process on a CPU, largest rank, after
everything that was freed has gone back to the system; the peak also counts files that were read.

*Arithmetic* is what has to be there with gradients: 4 bytes of weights, 4 of gradients, 8 of AdamW's moments in fp32;
on stages 1 to 3 also 4 of the float32 weights that DeepSpeed updates, which it keeps apart even where the weights are
float32. In bf16 weights and gradients are 2, and every stage, 0 too, keeps those float32 weights. Stage 1 shards
moments and float32 weights, and gradients once the last micro-batch is through; stage 2 gradients always, stage 3 the
weights as well. *DeepSpeed* is the estimate of its own functions, which know stages 2 and 3 alone and take 16-bit
weights for granted.

Measured less arithmetic is what is not a model state: about 0.6 bytes of activations of eight tokens, allocator and
gathered pieces, and on stage 3 the bucket through which gradients are reduced. It keeps up to 5e8 of them
(DeepSpeed's `reduce_bucket_size`), so this model's once more: 4 bytes, or 2, that no rank shares, and never more than
2 GB. The peak is that of the optimizer step, which makes copies.
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

# Every freed block of some size goes back to the system, whatever the allocator has learned before.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}


def measure(ranks: int, stage: int, precision: str) -> dict[str, Any]:
    """Bytes of the largest rank, in processes of their own."""
    launcher = [] if ranks == 1 else ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command = [sys.executable, *launcher, str(WORKER), str(stage), precision]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | ENVIRONMENT, check=False)
    if result.returncode:
        sys.exit(f"stage {stage} on {ranks} ranks failed:\n{result.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(next(line for line in result.stdout.splitlines() if line.startswith("{")))
    return found | {"ranks": ranks, "stage": stage, "precision": precision}


def measure_all() -> list[dict[str, Any]]:
    """Every cell in the order of the table; two processes at a time, because memory does not hang on speed."""
    wanted = [(ranks, stage, precision) for precision in PRECISIONS for stage in STAGES for ranks in RANKS]
    found = {}
    for ranks in RANKS:
        chosen = [cell for cell in wanted if cell[0] == ranks]
        with ThreadPoolExecutor(max(RANKS) // ranks) as pool:
            found |= zip(chosen, pool.map(measure, *zip(*chosen, strict=True)), strict=True)
    return [found[cell] for cell in wanted]


def arithmetic(ranks: int, stage: int, precision: str) -> float:
    """Bytes for each parameter: what is sharded is divided by the ranks."""
    weights = gradients = 4 if precision == "fp32" else 2
    moments, copy = 8, 4 if stage or precision == "bf16" else 0
    states = moments + copy + gradients
    sharded = {0: 0, 1: states, 2: states, 3: states + weights}[stage]
    return weights + gradients + moments + copy - sharded + sharded / ranks


def estimate(found: dict[str, Any]) -> float | None:
    """DeepSpeed's own estimate of the device memory of a rank, in bytes for each parameter."""
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
    """Markdown: one row for each precision, stage and number of ranks; the ratio is to stage 0 on one rank in fp32."""
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
    known = _whole(cells)["with_gradients"]
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
    """What two ranks save on the stages that shard gradients, and what they could by arithmetic."""
    known, whole = _whole(cells)["with_gradients"], arithmetic(1, 0, "fp32")
    chosen = [cell for cell in cells if cell["ranks"] == 2 and cell["stage"] in (2, 3)]
    return [
        Row(
            measure=f"memory of a rank, {cell['precision']}, ZeRO-{cell['stage']}, 2 ranks / fp32, no ZeRO, 1 rank",
            result=f"{cell['with_gradients'] / known:.2f}",
            limit=f"{arithmetic(2, cell['stage'], cell['precision']) / whole:.2f}",
        )
        for cell in chosen
    ]


def write(cells: list[dict[str, Any]]) -> None:
    """The results of this script, and the table of all."""
    how = (__doc__ or "").split("\n", 2)[2].strip()
    packages = ("torch", "deepspeed", "transformers")
    record("memory", rows(cells), f"# Memory of a rank\n\n{how}\n\n{table(cells)}", packages=packages)


def _whole(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """The cell to which the ratios are: nothing is sharded."""
    return next(c for c in cells if (c["precision"], c["stage"], c["ranks"]) == ("fp32", 0, 1))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the results, and the table of all")
    arguments = parser.parse_args()
    cells = measure_all()
    print(table(cells))
    if arguments.write:
        write(cells)


if __name__ == "__main__":
    main()
