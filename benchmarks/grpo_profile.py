"""Where the time of a training step goes: shares by kind of work, for the rollout and for the update.

Runs `skyrl train` in this process with the settings of grpo_throughput.py, and torch.profiler around two steps after
the first three. *Python* is the time outside torch operations: the interpreter and the modules' Python code. Only
shares are reported, because profiling makes everything slower. ``python benchmarks/grpo_profile.py [key=value ...]``
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import wraps
from typing import Any

import torch
from record import Row, record
from torch.profiler import ProfilerActivity, profile

from skyrl_train.entrypoints.main_base import main as train
from skyrl_train.step.rollout import RolloutCollector
from skyrl_train.step.update import PolicyUpdate

WARM_UP, PROFILED = 3, 2
KINDS = {
    "matrix products": ("mm", "addmm"),
    "attention": ("_scaled_dot_product", "bmm", "baddbmm", "_softmax"),
    "copies": ("cat", "copy_", "_to_copy", "clone", "index", "index_select", "index_put_", "gather", "fill_", "stack"),
}
OPTIONS = (
    "trainer.prompts_per_step=16",
    "trainer.samples_per_prompt=8",
    "trainer.micro_batch_size=128",
    "trainer.algorithm.policy_loss_type=standard",
    "trainer.optimizer.learning_rate=1e-6",
    "rollout.max_new_tokens=48",
    "evaluation.prompts=0",
    "tracking.keep_rollouts=0",
    "trainer.threads=1",
)


class Phase:
    """The seconds of one phase, in total and by kind of work."""

    def __init__(self) -> None:
        self.calls = 0
        self.seconds = 0.0
        self.by_kind: Counter[str] = Counter()

    def watching(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """The method, profiled after its warm-up calls."""

        @wraps(method)
        def watched(*arguments: Any, **named: Any) -> Any:
            self.calls += 1
            if self.calls <= WARM_UP:
                return method(*arguments, **named)
            with profile(activities=[ProfilerActivity.CPU]) as profiler:
                begun = time.perf_counter()
                result = method(*arguments, **named)
                ended = time.perf_counter()
            self.seconds += ended - begun
            for event in profiler.key_averages():
                self.by_kind[kind_of(event.key)] += event.self_cpu_time_total / 1e6
            return result

        return watched

    def share(self, kind: str) -> float:
        """The share of a kind of work in this phase; Python is the rest."""
        if kind == "Python":
            return max(1 - sum(self.by_kind.values()) / self.seconds, 0.0)
        return self.by_kind[kind] / self.seconds


def kind_of(operation: str) -> str:
    """The kind of work that an operation does."""
    name = operation.removeprefix("aten::")
    for kind, names in KINDS.items():
        if name in names or (kind == "attention" and name.startswith(names)):
            return kind
    return "other operations"


def main() -> int:
    """Profile a run and print the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("options", nargs="*", help="more options of the run, as key=value")
    parser.add_argument("--write", action="store_true", help="record the results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rollout, update = Phase(), Phase()
    RolloutCollector.sample = rollout.watching(RolloutCollector.sample)
    PolicyUpdate.step = update.watching(PolicyUpdate.step)
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        steps = WARM_UP + PROFILED
        train([*OPTIONS, f"trainer.steps={steps}", f"run_folder={folder}/run", *arguments.options])
    total = rollout.seconds + update.seconds
    lines = ["| kind of work | of the rollout | of the update | of both |", "|---|---|---|---|"]
    rows = []
    for kind in (*KINDS, "other operations", "Python"):
        shares = rollout.share(kind), update.share(kind)
        both = (shares[0] * rollout.seconds + shares[1] * update.seconds) / total
        lines.append(f"| {kind} | {shares[0]:.0%} | {shares[1]:.0%} | {both:.0%} |")
        rows.append(Row(measure=f"share of a training step: {kind}", result=f"{both:.0%}"))
    lines.append(f"| total | {rollout.seconds / total:.0%} of both | {update.seconds / total:.0%} of both | 100% |")
    text = "\n".join(lines)
    print(text)
    if arguments.write:
        heading = f"# Where the time of a training step goes\n\n{(__doc__ or '').strip()}"
        record("grpo_profile", rows, f"{heading}\n\n{text}", packages=("torch", "transformers", "deepspeed"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
