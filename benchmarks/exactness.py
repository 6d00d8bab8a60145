"""Show that no installed loss's gradient depends on micro-batch size, number of ranks or ZeRO stage.

Every cell is the largest deviation of any element of the gradient from the exact gradient, as a share of the exact
gradient's largest element. The exact gradient is plain autograd in float64 over the full batch on one process, with
materialised logits and without DeepSpeed; everything else is float32. The column *plain autograd*, also in float32,
shows the rounding error of that arithmetic. The batch has 28 ragged sequences in 7 groups; of two ranks, one has 16
and the other 12, so that one needs masked filler micro-batches. Model, batch and parameters are well conditioned, as
workers/gradient_inputs.py explains; otherwise the rounding error of float32 would be larger than these deviations. Rows
with LoRA compare the gradient of the adapters. Rows with skipping leave out the sequences without an advantage; their
exact gradient includes them. Rows with sharing compute the prompt of a group once.

The second table is about what the gradients are used for: weights, moments and step count after three steps of AdamW
with weight decay, in float32 and bfloat16. Its reference is AdamW in float64 on the gradients of the same run, rounded
as that run rounds them; weights and moments are float32 in both precisions.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from record import Row, record

from skyrl_core.registry import policy_losses

STAGES = (0, 1, 2, 3)
RANKS = (1, 2)
MICRO_BATCH_SIZES = (1, 4, 5, 64)
"""1 and 4 divide the sequences of every rank, 5 leaves a ragged last micro-batch, 64 takes all at once."""

MICRO_BATCH_TOKENS = (100,)
"""Three of the longest sequences, more of the others; the test also has a budget below one sequence."""

SKIPPING_LOSSES = ("dual_clip", "clip_cov")
"""One of each kind of loss that may skip: purely token-wise, and with statistics of all ranks."""

SHARING_LOSSES = ("entropy_reg", "gspo")
"""One with entropy, one with a sequence ratio: sharing changes the model's computation, not the loss's."""

LORA_LOSSES = ("entropy_reg", "clip_cov")
"""One with entropy, one with statistics of all ranks: adapters change what is differentiated, not the loss."""

BOUND = 1e-6
WORKER = Path(__file__).parent / "workers" / "gradient.py"

PRECISIONS = ("fp32", "bf16")
"""Precisions in which optimizer steps are compared."""

NAMES = ("stages", "sizes", "tokens", "losses", "lora_losses", "skipping_losses", "sharing_losses", "updates")
"""The command-line options that gradient.py receives."""

Cell = dict[str, Any]


def launch(ranks: int, given: dict[str, Any]) -> list[Cell]:
    """Run gradient.py on this many ranks with these stages, sizes, tokens and losses of each kind."""
    launcher = [] if ranks == 1 else ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command = [sys.executable, *launcher, str(WORKER), json.dumps(given)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if result.returncode:
        sys.exit(f"{ranks} ranks failed:\n{result.stderr[-4000:]}")
    return [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]


def summary(cells: list[Cell]) -> str:
    """Markdown: one row per loss, the worst over all stages and sizes."""
    columns = [(ranks, ragged) for ranks in RANKS for ragged in (False, True)]
    names = [f"{_count(ranks)}, {'ragged' if ragged else 'even'}" for ranks, ragged in columns]
    lines = [_row(["loss", "plain autograd", *names, "worst"]), "|---" * 7 + "|"]
    for loss in dict.fromkeys(map(_name, cells)):
        own = [cell for cell in cells if _name(cell) == loss]
        measured = [cell for cell in own if cell["stage"] is not None]
        parts = [[c for c in measured if (c["ranks"], c["ragged"]) == column] for column in columns]
        plain = [cell for cell in own if cell["stage"] is None]
        lines.append(_row([loss, *(f"{worst(part):.1e}" for part in (plain, *parts, measured))]))
    return "\n".join(lines)


def updates(cells: list[Cell]) -> str:
    """Markdown: one row per part of the state and precision, one column per ZeRO stage; the worst over ranks."""
    stages = sorted({cell["stage"] for cell in cells})
    lines = [
        _row(["state after 3 steps", "precision", *(f"ZeRO {stage}" for stage in stages)]),
        "|---" * (2 + len(stages)) + "|",
    ]
    for precision, part in dict.fromkeys((cell["precision"], cell["part"]) for cell in cells):
        own = [cell for cell in cells if (cell["precision"], cell["part"]) == (precision, part)]
        worsts = [f"{worst(cell for cell in own if cell['stage'] == stage):.1e}" for stage in stages]
        lines.append(_row([part, precision, *worsts]))
    return "\n".join(lines)


def details(cells: list[Cell]) -> str:
    """Markdown: one row per loss, ranks and stage, one column per micro-batch size."""
    measured = [cell for cell in cells if cell["stage"] is not None]
    sizes = list(dict.fromkeys(cell["micro_batch"] for cell in measured))
    lines = [
        _row(["loss", "ranks", "ZeRO", *(f"micro-batch {size}" for size in sizes)]),
        "|---" * (3 + len(sizes)) + "|",
    ]
    found = {(_name(c), c["ranks"], c["stage"], c["micro_batch"]): c["deviation"] for c in measured}
    for loss, ranks, stage in sorted({key[:3] for key in found}):
        lines.append(_row([loss, ranks, stage, *(f"{found[loss, ranks, stage, size]:.1e}" for size in sizes)]))
    return "\n".join(lines)


def page(cells: list[Cell], text: str) -> str:
    """The page, with how it was measured."""
    how = (__doc__ or "").split("\n", 2)[2].strip()
    rows = "A row shows the worst over stages and micro-batch sizes. Ragged: micro-batches differ in size."
    return f"# Equality of gradients\n\n{how}\n\n{rows}\n\n{text}\n## Every measurement\n\n{details(cells)}"


def updates_row(cells: list[Cell]) -> Row:
    """The worst deviation of weights and optimizer state."""
    return Row(
        measure="largest deviation of weights, AdamW's moments or step count after 3 steps from float64 / the largest "
        "element; fp32 and bf16 x ranks x ZeRO stages",
        result=f"{worst(cells):.1e}",
        goal=f"≤ {BOUND:.0e}",
    )


def row(cells: list[Cell]) -> Row:
    """The worst deviation of a gradient, next to the worst of plain float32 autograd without the trainer."""
    losses = len({cell["loss"] for cell in cells})
    return Row(
        measure=f"largest deviation of a gradient from the float64 one / its largest element; {losses} losses x "
        "micro-batches x ranks x ZeRO stages",
        result=f"{worst(c for c in cells if c['stage'] is not None):.1e}",
        goal=f"≤ {BOUND:.0e}",
        limit=f"{worst(c for c in cells if c['stage'] is None):.1e}",
    )


def worst(cells: Iterable[Cell]) -> float:
    """The largest deviation; 0 if there are no cells."""
    return max((float(cell["deviation"]) for cell in cells), default=0.0)


def _name(cell: Cell) -> str:
    return f"{cell['loss']}, {cell['variant']}" if cell["variant"] else str(cell["loss"])


def _row(values: list[object]) -> str:
    return "| " + " | ".join(map(str, values)) + " |"


def _count(ranks: int) -> str:
    return f"{ranks} rank{'s' if ranks > 1 else ''}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--losses", nargs="+", default=[claim.name for claim in policy_losses()])
    parser.add_argument("--lora-losses", nargs="*", default=LORA_LOSSES, help="also measured with LoRA adapters")
    parser.add_argument("--stages", nargs="+", type=int, default=STAGES)
    parser.add_argument("--sizes", nargs="+", type=int, default=MICRO_BATCH_SIZES, help="micro-batch sizes")
    parser.add_argument("--tokens", nargs="*", type=int, default=MICRO_BATCH_TOKENS, help="micro-batch token budgets")
    parser.add_argument("--skipping-losses", nargs="*", default=SKIPPING_LOSSES, help="also measured with skipping")
    parser.add_argument("--sharing-losses", nargs="*", default=SHARING_LOSSES, help="also measured with shared prompts")
    parser.add_argument("--updates", nargs="*", default=PRECISIONS, help="precisions of the measured optimizer steps")
    parser.add_argument("--json", action="store_true", help="print the deviations as JSON")
    parser.add_argument("--write", action="store_true", help="write the results and the summary table")
    arguments = parser.parse_args()
    given = {name: getattr(arguments, name) for name in NAMES}
    measured = [cell for ranks in RANKS for cell in launch(ranks, given)]
    cells, steps = ([cell for cell in measured if (key in cell)] for key in ("loss", "part"))
    largest = worst(cell for cell in measured if cell["stage"] is not None)
    text = f"{summary(cells)}\n\n{updates(steps)}\n\nlargest deviation {largest:.1e}, bound {BOUND:.0e}\n"
    print(json.dumps(measured) if arguments.json else text)
    if arguments.write:
        packages = ("torch", "deepspeed", "transformers")
        record("exactness", [row(cells), updates_row(steps)], page(cells, text), packages=packages)
    if largest > BOUND:
        sys.exit(1)


if __name__ == "__main__":
    main()
