"""Log-probs and exact entropy from hidden states, forward and backward: memory and time against materialised logits.

Each measurement is a process of its own: the most memory that it had beyond its inputs and their gradients, and the
best time of several. The floor is four products of matrices of these sizes, timed in the same run: what remains where
the backward pass makes the logits of the forward pass anew. ``python benchmarks/log_probs.py``
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

TOKENS, HIDDEN = 4096, 1024
VOCABULARIES = (32_000, 152_000)
MEMORY_GOAL, TIME_GOAL, FLOOR_GOAL = 1 / 12, 0.8, 1.3
KINDS = {
    "materialised": "materialised logits, log_softmax",
    "ours": "token_statistics",
    "torch": "F.linear_cross_entropy, chunked (no entropy)",
    "floor": "four products of matrices",
}


def main() -> int:
    """Print a table for each vocabulary; 1 if the goal of memory is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocabularies", nargs="+", type=int, default=VOCABULARIES)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", type=Path, help="write the table into this file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(measure(arguments.worker, arguments.vocabularies[0], arguments.threads, arguments.repeats)))
        return 0
    lines = ["| vocabulary | what | extra memory | time | memory / materialised | time / materialised | time / floor |"]
    lines.append("|---|---|---|---|---|---|---|")
    met = True
    for size in arguments.vocabularies:
        found = {kind: _in_a_process(kind, size, arguments) for kind in KINDS}
        base, floor = found["materialised"], found["floor"]
        for kind, (memory, seconds) in found.items():
            of_memory = "" if kind == "floor" else f"{memory / base[0]:.3f}"
            lines.append(
                f"| {size:,} | {KINDS[kind]} | {memory:.2f} GiB | {seconds:.2f} s | {of_memory} "
                f"| {seconds / base[1]:.2f} | {seconds / floor[1]:.2f} |"
            )
        met = met and found["ours"][0] <= MEMORY_GOAL * base[0]
    lines.append(
        f"\n{TOKENS} tokens, hidden size {HIDDEN}, float32, {arguments.threads} threads. Goals: memory at most 1/12 of "
        f"materialised, time at most {TIME_GOAL:g} of it and {FLOOR_GOAL:g} of the floor."
    )
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.write:
        arguments.write.write_text(f"# Log-probs and entropy\n\n{(__doc__ or '').strip()}\n\n{text}")
    return 0 if met else 1


def _in_a_process(kind: str, vocabulary: int, arguments: argparse.Namespace) -> tuple[float, float]:
    options = {"--vocabularies": vocabulary, "--threads": arguments.threads, "--repeats": arguments.repeats}
    command = [sys.executable, __file__, "--worker", kind, *(str(x) for pair in options.items() for x in pair)]
    memory, seconds = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return memory, seconds


def measure(kind: str, vocabulary: int, threads: int, repeats: int) -> tuple[float, float]:
    """GiB beyond inputs and gradients, and the best seconds."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    hidden = torch.randn(TOKENS, HIDDEN).requires_grad_()
    weight = torch.randn(vocabulary, HIDDEN).mul_(0.05).requires_grad_()
    ids = torch.randint(vocabulary, (TOKENS,))
    slopes = torch.randn(2, TOKENS)
    hidden.grad, weight.grad = torch.zeros_like(hidden), torch.zeros_like(weight)
    work = _work(kind, hidden, weight, ids, slopes)
    before, best = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20, best


def _work(kind: str, hidden: "Tensor", weight: "Tensor", ids: "Tensor", slopes: "Tensor") -> Callable[[], object]:
    import torch

    from skyrl_train.policy.log_probs import token_statistics

    def materialised() -> None:
        log_p = torch.log_softmax(hidden @ weight.T, dim=-1)
        entropy = -(log_p.exp() * log_p).sum(-1)
        (log_p.gather(-1, ids[:, None]).squeeze(-1) * slopes[0] + entropy * slopes[1]).sum().backward()

    def ours() -> None:
        log_probs, entropy = token_statistics(hidden, weight, ids, with_entropy=True)
        assert entropy is not None
        (log_probs * slopes[0] + entropy * slopes[1]).sum().backward()

    def torchs() -> None:
        options = torch.nn.LinearCrossEntropyOptions()
        torch.nn.functional.linear_cross_entropy(hidden, weight, ids, reduction="mean", options=options).backward()

    def floor() -> None:
        with torch.no_grad():
            for start in range(0, TOKENS, 1024):
                logits = hidden[start : start + 1024] @ weight.T
                logits = torch.mm(hidden[start : start + 1024], weight.T, out=logits)
                torch.mm(logits, weight)
                torch.mm(logits.T, hidden[start : start + 1024])

    return {"materialised": materialised, "ours": ours, "torch": torchs, "floor": floor}[kind]


if __name__ == "__main__":
    sys.exit(main())
