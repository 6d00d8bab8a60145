"""One process of ``benchmarks/exactness.py``: prints the deviation of each gradient from the exact one."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from deepspeed.utils import safe_get_full_grad
from gradient_inputs import GROUPS, build_batch, build_model, build_objective, without_advantages
from plain_autograd import Gradient, deviation, in_float64, plain_gradient
from updates import measure_updates

from skyrl_train.config.schema import DeepSpeedConfig, OptimizerConfig
from skyrl_train.policy.policy import Policy
from skyrl_train.ranks.ranks import Ranks
from skyrl_train.step.batching import MicroBatchSize, owner_of_group
from skyrl_train.step.update import PolicyUpdate
from skyrl_train.trainer_engine.zero import ZeroEngine


class RecordingEngine(ZeroEngine):
    """Keeps the gradient of each step."""

    gradient: Gradient

    def step(self, learning_rate: float) -> float:
        """Record the gradient, then step."""
        trained = {name: p for name, p in self.policy.model.named_parameters() if p.requires_grad}
        self.gradient = {name: safe_get_full_grad(parameter).double() for name, parameter in trained.items()}
        return super().step(learning_rate)


def measure(
    ranks: Ranks, stages: Sequence[int], sizes: Mapping[str, MicroBatchSize], losses: Sequence[str], variant: str
) -> Iterator[dict[str, object]]:
    """The deviations of every loss, stage and size on this process group; only rank 0 yields.

    Stage null is plain autograd in float32: the rounding error without the trainer. The reference of ``skipping``
    computes all sequences.
    """
    lora, skips = variant == "LoRA", variant == "skipping"
    model = build_model(lora=lora)
    batch = build_batch(model)
    if skips:
        batch = without_advantages(batch)
    objectives = {name: build_objective(name, skips=skips) for name in losses}
    exact = in_float64(model)
    references = {name: plain_gradient(exact, batch, objective) for name, objective in objectives.items()}
    for name, objective in objectives.items():
        if ranks.is_main:
            found = deviation(plain_gradient(model, batch, objective), references[name])
            yield {"loss": name, "variant": variant, "stage": None, "ranks": ranks.world_size, "deviation": found}
    mine = [owner_of_group(int(g), GROUPS, 1, ranks.world_size) == ranks.rank for g in batch.groups]
    part = batch.select(torch.tensor(mine).nonzero().squeeze(-1))
    for stage in stages:
        engine = RecordingEngine(
            Policy(build_model(lora=lora), chunk_size=7, temperature=1.0, share_prompts=variant == "sharing"),
            DeepSpeedConfig(zero_stage=stage),
            OptimizerConfig(max_grad_norm=None),
            ranks,
        )
        for name, objective in objectives.items():
            for label, plain in sizes.items():
                size = replace(plain, cost=engine.policy.cost) if engine.policy.shares_prompts else plain
                update = PolicyUpdate(engine, objective, ranks, micro_batch_size=size, pad_id=0)
                # A learning rate of zero keeps the weights unchanged for the next measurement.
                update.step(part, num_groups=GROUPS, learning_rate=0.0, step=0)
                where = {"stage": stage, "ranks": ranks.world_size, "micro_batch": label}
                ragged = len({len(rows) for rows in size.split(part, torch.arange(len(part)))}) > 1
                if ranks.is_main:
                    found = deviation(engine.gradient, references[name])
                    yield {"loss": name, "variant": variant, **where, "ragged": ragged, "deviation": found}
        engine.close()


def main(given: dict[str, Any]) -> None:
    """Print the deviations with all weights trained, those of each variant, then those of optimizer steps."""
    torch.set_num_threads(1)
    ranks = Ranks.start()
    sizes = {str(size): MicroBatchSize(sequences=size) for size in given["sizes"]}
    sizes |= {f"{tokens} tokens": MicroBatchSize(sequences=1, tokens=tokens) for tokens in given["tokens"]}
    for variant in ("", "LoRA", "skipping", "sharing"):
        losses = given[f"{variant.lower()}_losses" if variant else "losses"]
        for cell in measure(ranks, given["stages"], sizes, losses, variant):
            print(json.dumps(cell), flush=True)
    for cell in measure_updates(ranks, given["stages"], given["updates"]):
        print(json.dumps(cell), flush=True)
    ranks.end_run()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
