"""Starts runs by forking: importing torch and DeepSpeed takes many times as long as a run of a few steps.

It reads one JSON object a line, the arguments of `start`, and answers each with the number of the process group of the
run that it started.
"""

import importlib
import json
import os
import random
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch

from skyrl_core.advantages.estimator import AdvantageBatch, AdvantageEstimator
from skyrl_core.estimator_registry import register_advantage_estimator
from skyrl_train.entrypoints.main_base import main
from skyrl_train.training.journal import Journal

for module in (
    "accelerate",
    "peft",
    "deepspeed.checkpoint.ds_to_universal",
    "deepspeed.runtime.zero.muon.original_muon",  # through which DeepSpeed imports torch's compiler, most of a start
    "skyrl_train.environments.arithmetic",
    "skyrl_train.rollout.hf.engine",
    "skyrl_train.training.run",
    "transformers.models.qwen2.modeling_qwen2",
):
    importlib.import_module(module)


class Noisy(AdvantageEstimator):
    """Draws from every global generator, as a user's plugin may."""

    def estimate(self, batch: AdvantageBatch) -> torch.Tensor:
        noise = random.random() + np.random.rand() + torch.rand(())
        return batch.rewards - batch.rewards.mean() + 0.1 * noise + 0.1 * torch.randn(batch.rewards.shape)


register_advantage_estimator("noisy", Noisy)


def start(argv: list[str], log: str, code: str, port: int | None, ranks: int, halt: tuple[int, str] | None) -> None:
    """Fork a process that forks the run, waits for it outside of its group and writes down how it ended."""
    if os.fork():
        return
    run = os.fork()
    if run == 0:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if halt is not None:
            halt_after(*halt)
        os._exit(train(argv, port, ranks))
    sys.stdout.write(f"{run}\n")
    sys.stdout.flush()
    status = os.waitstatus_to_exitcode(os.waitpid(run, 0)[1])
    Path(f"{code}.part").write_text(str(status))
    os.rename(f"{code}.part", code)
    os._exit(0)


def halt_after(step: int, file: str) -> None:
    """Let the run make a file once the metrics of this step are written, and wait until it is gone."""
    write = Journal.step

    def write_and_wait(journal: Journal, number: int, metrics: Mapping[str, float]) -> None:
        write(journal, number, metrics)
        if number == step:
            Path(file).touch()
            limit = time.monotonic() + 300
            while os.path.exists(file) and time.monotonic() < limit:
                time.sleep(0.01)

    Journal.step = write_and_wait


def train(argv: list[str], port: int | None, ranks: int) -> int:
    """`main` on each rank; all are in one process group. The exit code of rank 0, or of the first other that failed."""
    others = []
    for rank in range(1, ranks):
        child = os.fork()
        if child == 0:
            os._exit(as_rank(rank, argv, port, ranks))
        others.append(child)
    codes = [as_rank(0, argv, port, ranks)]
    codes += [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in others]
    return next((code for code in codes if code), 0)


def as_rank(rank: int, argv: list[str], port: int | None, ranks: int) -> int:
    if ranks > 1:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_PORT": port}
        os.environ |= {name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "127.0.0.1"}
    try:
        return reload(*argv[1:]) if argv[0] == "reload" else main(argv, prog="skyrl train")
    except SystemExit as error:
        return int(error.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def reload(source: str, target: str, stage: str, precision: str, lora_rank: str) -> int:
    """Load a checkpoint into an engine of this many ranks, and write what the engine then holds. Nothing is trained."""
    from skyrl_train.config.schema import DeepSpeedConfig, LoraConfig, OptimizerConfig
    from skyrl_train.policy.adapters import add_adapters
    from skyrl_train.policy.model_loading import load_model
    from skyrl_train.policy.policy import Policy
    from skyrl_train.training.checkpoint import read
    from skyrl_train.training.conversion import converted, is_needed
    from skyrl_train.training.ranks import Ranks
    from skyrl_train.training.zero import ZeroEngine

    ranks = Ranks.start()
    converts = is_needed(read(Path(source)), ranks.world_size, int(stage))
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    model = load_model("tiny", dtype)
    add_adapters(model, LoraConfig(rank=int(lora_rank) or None), seed=0)
    policy = Policy(model, chunk_size=64, temperature=1.0)
    deepspeed = DeepSpeedConfig(zero_stage=int(stage), precision=precision)
    engine = ZeroEngine(policy, deepspeed, OptimizerConfig(), ranks, loads_converted=converts)
    with converted(Path(source), ranks) if converts else nullcontext(Path(source)) as folder:
        engine.load(folder)
    if ranks.is_main:
        Path(target).mkdir()
    engine.snapshot(Path(target)).write()
    return 0


def reap() -> None:
    """The forks that only wait for a run: those that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


if __name__ == "__main__":
    assert len(os.listdir("/proc/self/task")) == 1, "a process with threads must not be forked"
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        start(**json.loads(line))
        reap()
