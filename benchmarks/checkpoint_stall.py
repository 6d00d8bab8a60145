"""Time that a step waits for a checkpoint: a copy of the state in memory, which a thread then writes.

A Qwen2 of 63 million random parameters is trained on ZeRO-2 in float32, on one rank and one thread. *Blocking write*:
the same state is written, flushed to disk and hashed between two steps. *A step waits* is the time until training
continues, for the first checkpoint, for which the system has to clear memory, and for later ones, which reuse that
memory. *Complete after* is the time from then until the first end of a step at which the checkpoint is complete; a step
takes about a second. *Plain copy* copies as many bytes into reused or new memory. A training step while the thread
writes is compared with one without it: the two share the machine. Medians of several alternating turns; the disk
causes most of the noise.
``python benchmarks/checkpoint_stall.py``
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from record import Row, record

from skyrl_train.checkpoints import checkpoint_folder
from skyrl_train.checkpoints.background_save import BackgroundSave
from skyrl_train.checkpoints.manifest import write_manifest
from skyrl_train.config.schema import DeepSpeedConfig, OptimizerConfig
from skyrl_train.policy.policy import Policy, Sequences
from skyrl_train.ranks.ranks import Ranks
from skyrl_train.record.journal import Journal
from skyrl_train.record.progress import Progress
from skyrl_train.trainer_engine import random_state
from skyrl_train.trainer_engine.snapshot import Snapshot
from skyrl_train.trainer_engine.zero import ZeroEngine

LAYERS, STAGE, TURNS, QUIET_STEPS = 6, 2, 3, 5
GOAL = 0.1
"""Largest share of the time of a blocking write that a step may wait."""


class Training:
    """A training engine whose state is saved in a folder."""

    def __init__(self, folder: Path) -> None:
        sys.path.insert(0, str(Path(__file__).parent / "workers"))
        from footprint import build_model

        self.ranks = Ranks.start()
        policy = Policy(build_model(torch.float32, layers=LAYERS), chunk_size=64, temperature=1.0)
        self.engine = ZeroEngine(policy, DeepSpeedConfig(zero_stage=STAGE), OptimizerConfig(), self.ranks)
        self.saves = BackgroundSave(self.engine, self.ranks, Journal(folder), keep=1)
        self._folder, self._step = folder / "checkpoints", 0
        self._sequences = Sequences(
            input_ids=torch.arange(64)[None],
            attention_mask=torch.ones(1, 64, dtype=torch.bool),
            response_start=torch.tensor([32]),
            response_mask=torch.ones(1, 32, dtype=torch.bool),
        )

    def step(self) -> None:
        """Run forward, backward and the optimizer step."""
        log_probs, _ = self.engine.forward(self._sequences, with_entropy=False)
        self.engine.backward(-log_probs.mean(), last=True)
        self.engine.step(1e-5)

    def write_at_once(self) -> None:
        """Write a checkpoint without a thread: DeepSpeed writes the files, which are flushed and hashed."""
        from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine

        progress = self._next()
        partial = checkpoint_folder.partial_folder(self._folder, progress.step)
        checkpoint_folder.begin(partial)
        (partial / "state").mkdir()
        deepspeed = self.engine._engine
        capture, deepspeed.checkpoint_engine = deepspeed.checkpoint_engine, TorchCheckpointEngine(deepspeed._config)
        deepspeed.save_checkpoint(str(partial), tag="state", save_latest=False)
        deepspeed.checkpoint_engine = capture
        numbers = Snapshot()
        random_state.add(numbers, partial, 0)
        numbers.write()
        write_manifest(partial, progress, {})
        checkpoint_folder.prune(checkpoint_folder.publish(partial).parent, progress.step, keep=1)

    def begin(self) -> None:
        """Start a checkpoint as the trainer does; a step waits for this call."""
        self.saves.start(self._next())

    def size(self) -> int:
        """The size of the latest checkpoint in bytes."""
        found = checkpoint_folder.find(self._folder)
        return sum(path.stat().st_size for path in found.rglob("*") if path.is_file())

    def _next(self) -> Progress:
        self._step += 1
        return Progress(step=self._step, optimizer_steps=0, world_size=1, zero_stage=STAGE, loss={"id": "none"})


def timed(work: Callable[[], object]) -> float:
    """The seconds that the work takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(training: Training) -> dict[str, float]:
    """The median seconds of each measure, and the size in bytes."""
    training.step()
    first = timed(training.begin)
    training.saves.wait()
    size = training.size()
    source, target = torch.ones(size, dtype=torch.uint8), torch.ones(size, dtype=torch.uint8)
    seconds: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        seconds.setdefault(name, []).append(value)

    for _ in range(TURNS):
        note("blocking write", timed(training.write_at_once))
        note("plain copy, reused memory", timed(lambda: target.copy_(source)))
        note("plain copy, new memory", timed(source.clone))
        for _ in range(QUIET_STEPS):
            note("a step", timed(training.step))
        note("a step waits", timed(training.begin))
        started = time.perf_counter()
        while training.saves.is_writing:
            note("a step during the write", timed(training.step))
            training.saves.poll()
        note("complete after", time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return medians | {"a step waits, first time": first, "bytes": float(size)}


def report(found: dict[str, float]) -> str:
    """The results as Markdown."""
    blocking = found["blocking write"]
    names = ["blocking write", "a step waits", "a step waits, first time", "complete after"]
    names += ["plain copy, reused memory", "plain copy, new memory"]
    lines = [f"| {found['bytes'] / 1e9:.2f} GB | share of a blocking write |", "|---|---|"]
    lines += [f"| {name} | {found[name] / blocking:.2f} |" for name in names]
    slowdown = found["a step during the write"] / found["a step"]
    return "\n".join([*lines, "", f"A step during the write takes {slowdown:.2f} times a step without it."])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write results/checkpoint_stall.md and .json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        training = Training(Path(folder))
        with training.saves:
            found = measure(training)
    blocking, text = found["blocking write"], report(found)
    ratio = found["a step waits"] / blocking
    print(text)
    if arguments.write:
        how = (__doc__ or "").strip().split("\n", 2)[2].strip().rsplit("``", 2)[0].strip()
        row = Row(
            measure=f"a step waits for a checkpoint of {found['bytes'] / 1e9:.1f} GB / a blocking write",
            result=f"{ratio:.2f}",
            goal=f"≤ {GOAL:g}",
            limit=f"{found['plain copy, reused memory'] / blocking:.2f}",
        )
        text = f"# Time that a step waits for a checkpoint\n\n{how}\n\n{text}"
        record("checkpoint_stall", [row], text, packages=("torch", "deepspeed", "transformers"))
    if ratio > GOAL:
        sys.exit(1)


if __name__ == "__main__":
    main()
