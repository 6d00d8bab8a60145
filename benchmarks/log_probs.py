"""Log-probs and exact entropy from hidden states, forward and backward: memory and time against materialised logits.

Each measurement is a separate process: its peak memory beyond the inputs and their gradients, which are the same for
all, and the best time of several. *Materialised* is what trainers on transformers do: logits, divided by the
temperature, log_softmax, gather, entropy. The two losses that are fused with the output embedding need the gradient of
each token before the forward pass ends, and return neither per-token values nor entropy. The floor is four matrix
products of these sizes, timed in the same run.

``python benchmarks/log_probs.py``. Liger's loss is measured if the folder SKYRL_BENCH_PEERS contains it, in liger/
(``pip install --no-deps --target FOLDER/liger -r benchmarks/requirements/liger.txt``).
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from record import Row, record

if TYPE_CHECKING:
    from torch import Tensor

HIDDEN = 1024
TEMPERATURE = 0.7
# Four matrix products take about as long as materialised logits, so the gain is the memory.
MEMORY_GOAL, TIME_GOAL, FLOOR_GOAL = 1 / 12, 1.1, 1.3
KINDS = {
    "materialised": "materialised logits",
    "ours": "token_statistics",
    "torch": "F.linear_cross_entropy, chunked (no entropy)",
    "liger": "Liger's fused GRPO loss (no entropy)",
    "floor": "the floor: four matrix products",
}
REFERENCES = ("materialised", "ours", "floor")


class Case(NamedTuple):
    """Sizes that are measured together."""

    vocabulary: int
    tokens: int
    repeats: int
    kinds: tuple[str, ...] = tuple(KINDS)


CASES = (
    Case(32_000, 4096, 2),
    Case(152_000, 4096, 2, REFERENCES),
    Case(152_000, 1024, 2, (*REFERENCES, "liger")),  # torch's loss takes most of a minute even here
)
LIGER = Path(os.environ.get("SKYRL_BENCH_PEERS", "."), "liger")


class Measured(NamedTuple):
    """The result of one process."""

    gib: float  # beyond inputs and gradients
    seconds: float


def main() -> int:
    """Print a table for each case; exit code 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, help="measure only this size")
    parser.add_argument("--tokens", type=int, default=4096, help="for --vocabulary")
    parser.add_argument("--repeats", type=int, default=1, help="for --vocabulary")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="write the results")
    parser.add_argument("--worker", choices=KINDS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        case = Case(arguments.vocabulary, arguments.tokens, arguments.repeats)
        print(json.dumps(measure(arguments.worker, case, arguments.threads)))
        return 0
    cases = [Case(arguments.vocabulary, arguments.tokens, arguments.repeats)] if arguments.vocabulary else CASES
    left_out: set[str] = set()
    if not (LIGER / "liger_kernel").is_dir():
        print(
            f"no {LIGER}/liger_kernel: Liger's loss is left out (SKYRL_BENCH_PEERS names the folder)", file=sys.stderr
        )
        left_out = {"liger"}
    sections, rows, missed = [], [], []
    for case in cases:
        found = {kind: _in_a_process(kind, case, arguments.threads) for kind in case.kinds if kind not in left_out}
        title = f"{case.tokens} tokens, vocabulary {case.vocabulary:,}, best of {case.repeats}"
        sections.append(f"{title}:\n\n{_table(found)}")
        rows += _rows(found, f"{case.tokens} tokens x {case.vocabulary:,}")
        missed += [f"{title}: {goal}" for goal in _missed(found)]
    text = f"# Log-probs and entropy\n\n{__doc__.strip() if __doc__ else ''}\n\n" + "\n\n".join(sections)
    text += f"\n\nHidden size {HIDDEN}, float32, temperature {TEMPERATURE:g}, {arguments.threads} threads. "
    text += "Missed: " + ("; ".join(missed) if missed else "nothing") + "."
    print(text)
    if arguments.write:
        record("log_probs", rows, text, packages=("torch",))
    return 1 if missed else 0


def _table(found: dict[str, Measured]) -> str:
    base, floor = found["materialised"], found["floor"]
    lines = ["| method | memory | time | memory / materialised | time / materialised | time / floor |"]
    lines.append("|---|---|---|---|---|---|")
    for kind, (memory, seconds) in found.items():
        cells = (f"{memory:.2f} GiB", f"{seconds:.2f} s", f"{memory / base.gib:.3f}")
        if kind == "floor":
            cells = ("", f"{seconds:.2f} s", "")
        lines.append(
            f"| {KINDS[kind]} | {' | '.join(cells)} | {seconds / base.seconds:.2f} | {seconds / floor.seconds:.2f} |"
        )
    return "\n".join(lines)


def _rows(found: dict[str, Measured], size: str) -> list[Row]:
    """The rows for the summary table of all benchmarks."""
    ours, base, floor = found["ours"], found["materialised"], found["floor"].seconds / found["materialised"].seconds
    memory = Row(
        measure=f"memory of log-probs and entropy, {size}, against materialised logits",
        result=f"{ours.gib / base.gib:.3f}",
        goal=f"{MEMORY_GOAL:.3f}",
    )
    seconds = [
        Row(
            measure=f"time of log-probs and entropy, {size}, against {KINDS[kind]}",
            result=f"{ours.seconds / found[kind].seconds:.2f}",
            goal=f"{TIME_GOAL if kind == 'materialised' else 1:g}",
            limit=f"{floor * base.seconds / found[kind].seconds:.2f}",
        )
        for kind in ("materialised", "torch", "liger")
        if kind in found
    ]
    return [memory, *seconds]


def _missed(found: dict[str, Measured]) -> list[str]:
    ours, base = found["ours"], found["materialised"]
    missed = []
    if ours.gib > MEMORY_GOAL * base.gib:
        missed.append("memory at most 1/12 of materialised logits")
    if ours.seconds > TIME_GOAL * base.seconds:
        missed.append(f"time at most {TIME_GOAL:g} of materialised logits")
    if ours.seconds > FLOOR_GOAL * found["floor"].seconds:
        missed.append(f"time at most {FLOOR_GOAL:g} of the floor")
    return missed + [
        f"not slower than {KINDS[k]}" for k in ("torch", "liger") if k in found and ours.seconds > found[k].seconds
    ]


def _in_a_process(kind: str, case: Case, threads: int) -> Measured:
    options = {
        "--tokens": case.tokens,
        "--vocabulary": case.vocabulary,
        "--threads": threads,
        "--repeats": case.repeats,
    }
    command = [sys.executable, __file__, "--worker", kind, *(str(x) for pair in options.items() for x in pair)]
    return Measured(*json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout))


def measure(kind: str, case: Case, threads: int) -> Measured:
    """Measure one kind in this process."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    hidden = torch.randn(case.tokens, HIDDEN).requires_grad_()
    weight = torch.randn(case.vocabulary, HIDDEN).mul_(0.05).requires_grad_()
    work = _work(kind, hidden, weight, torch.randint(case.vocabulary, (case.tokens,)))
    before, best = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, float("inf")
    for _ in range(case.repeats):
        hidden.grad = weight.grad = None
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    held = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 2**10
    return Measured((held - hidden.nbytes - weight.nbytes) / 2**30, best)


def _work(kind: str, hidden: "Tensor", weight: "Tensor", ids: "Tensor") -> Callable[[], object]:
    import torch

    from skyrl_train.policy.log_probs.tiled_log_probs import token_statistics

    slopes = torch.randn(2, len(ids))

    def materialised() -> None:
        logits = hidden @ weight.T
        logits /= TEMPERATURE
        log_p = torch.log_softmax(logits, dim=-1)
        entropy = -(log_p.exp() * log_p).sum(-1)
        (log_p.gather(-1, ids[:, None]).squeeze(-1) * slopes[0] + entropy * slopes[1]).sum().backward()

    def ours() -> None:
        log_probs, entropy = token_statistics(hidden, weight, ids, temperature=TEMPERATURE, with_entropy=True)
        assert entropy is not None
        (log_probs * slopes[0] + entropy * slopes[1]).sum().backward()

    def torchs() -> None:
        options = torch.nn.LinearCrossEntropyOptions()
        torch.nn.functional.linear_cross_entropy(hidden / TEMPERATURE, weight, ids, options=options).backward()

    if kind == "liger":
        return _liger(hidden, weight, ids)
    if kind == "floor":
        return _products(hidden, weight)
    return {"materialised": materialised, "ours": ours, "torch": torchs}[kind]


def _liger(hidden: "Tensor", weight: "Tensor", ids: "Tensor") -> Callable[[], object]:
    sys.path.insert(0, str(LIGER))
    import torch
    from liger_kernel.chunked_loss.grpo_loss import LigerFusedLinearGRPOLoss

    loss: Any = LigerFusedLinearGRPOLoss(beta=0.0, compiled=False, use_ref_model=False, temperature=TEMPERATURE)
    rows = len(ids) // 1024  # sequences of 1024 tokens
    advantages, mask = torch.randn(rows), torch.ones(rows, 1024)

    def fused() -> None:
        states = hidden.view(rows, 1024, HIDDEN)
        loss(states, weight, ids.view(rows, 1024), mask, advantages)[0].backward()

    return fused


def _products(hidden: "Tensor", weight: "Tensor") -> Callable[[], object]:
    """Four products in parts."""
    import torch

    def four() -> None:
        for start in range(0, len(weight), 1024):
            part = weight[start : start + 1024]
            for first in range(0, len(hidden), 1024):
                states = hidden[first : first + 1024]
                for _ in range(2):
                    logits = states @ part.T
                logits @ part
                logits.T @ states

    return torch.no_grad()(four)


if __name__ == "__main__":
    sys.exit(main())
