"""One process of ``benchmarks/exactness.py``: prints how far the gradient of each measurement is from the exact one."""

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from deepspeed.utils import safe_get_full_grad
from gradient_inputs import GROUPS, build_batch, build_model, build_objective
from plain_autograd import Gradient, deviation, in_float64, plain_gradient

from skyrl_train.config.schema import DeepSpeedConfig, OptimizerConfig
from skyrl_train.policy.policy import Policy
from skyrl_train.training.batching import owner_of_group
from skyrl_train.training.ranks import Ranks
from skyrl_train.training.update import PolicyUpdate
from skyrl_train.training.zero import ZeroEngine


class RecordingEngine(ZeroEngine):
    """Keeps the gradient that a step is made with."""

    gradient: Gradient

    def step(self, learning_rate: float) -> float:
        """Record, then step."""
        trained = {name: p for name, p in self.policy.model.named_parameters() if p.requires_grad}
        self.gradient = {name: safe_get_full_grad(parameter).double() for name, parameter in trained.items()}
        return super().step(learning_rate)


def measure(
    ranks: Ranks, stages: Sequence[int], sizes: Sequence[int], losses: Sequence[str], *, lora: bool
) -> Iterator[dict[str, object]]:
    """The deviations of every loss, stage and size on this process group; rank 0 yields, the others compute.

    Stage null is plain autograd in float32: what this arithmetic leaves open without any trainer.
    """
    model = build_model(lora=lora)
    whole = build_batch(model)
    objectives = {name: build_objective(name) for name in losses}
    exact = in_float64(model)
    references = {name: plain_gradient(exact, whole, objective) for name, objective in objectives.items()}
    for name, objective in objectives.items():
        if ranks.is_main:
            found = deviation(plain_gradient(model, whole, objective), references[name])
            yield {"loss": name, "lora": lora, "stage": None, "ranks": ranks.world_size, "deviation": found}
    mine = [owner_of_group(int(g), GROUPS, 1, ranks.world_size) == ranks.rank for g in whole.groups]
    part = whole.select(torch.tensor(mine).nonzero().squeeze(-1))
    for stage in stages:
        engine = RecordingEngine(
            Policy(build_model(lora=lora), chunk_size=7, temperature=1.0),
            DeepSpeedConfig(zero_stage=stage),
            OptimizerConfig(max_grad_norm=None),
            ranks,
        )
        for name, objective in objectives.items():
            for size in sizes:
                update = PolicyUpdate(engine, objective, ranks, micro_batch_size=size, pad_id=0)
                # A learning rate of zero leaves the weights as they are for the next measurement.
                update.step(part, num_groups=GROUPS, learning_rate=0.0, step=0)
                where = {"stage": stage, "ranks": ranks.world_size, "micro_batch_size": size}
                ragged = size < len(part) and len(part) % size > 0
                if ranks.is_main:
                    found = deviation(engine.gradient, references[name])
                    yield {"loss": name, "lora": lora, **where, "ragged": ragged, "deviation": found}
        engine.close()


def main(given: dict[str, Any]) -> None:
    """Print the deviations of all weights' gradient, then those of adapters' gradient."""
    torch.set_num_threads(1)
    ranks = Ranks.start()
    for lora in (False, True):
        losses = given["lora_losses" if lora else "losses"]
        for cell in measure(ranks, given["stages"], given["sizes"], losses, lora=lora):
            print(json.dumps(cell), flush=True)
    ranks.leave()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
