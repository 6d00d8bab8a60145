"""The part of ``gradient.py`` that measures optimizer steps: weights and AdamW state after three steps.

AdamW divides by the size of a gradient, so its step for a gradient near zero depends on rounding. The reference is
therefore AdamW in float64 on the gradients that DeepSpeed averaged, which the other rows compare with exact ones.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_grad, safe_get_full_optimizer_state
from gradient_inputs import GROUPS, build_batch, build_model, build_objective
from plain_autograd import Gradient, deviation
from torch import Tensor

from skyrl_train.config.schema import DeepSpeedConfig, OptimizerConfig
from skyrl_train.policy.policy import Policy
from skyrl_train.ranks.ranks import Ranks
from skyrl_train.step.batching import MicroBatchSize, owner_of_group
from skyrl_train.step.update import PolicyUpdate
from skyrl_train.trainer_engine.zero import ZeroEngine

STEPS, RATE = 3, 1e-2
OPTIMIZER = OptimizerConfig(weight_decay=0.5, max_grad_norm=None)
"""Strong weight decay, so that a step without gradients moves the weights; clipping is compared with torch's."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class RecordingEngine(ZeroEngine):
    """Keeps the gradient of every step."""

    def step(self, learning_rate: float) -> float:
        """Record the gradient, then step."""
        gradient = {name: safe_get_full_grad(p).double() for name, p in self.policy.model.named_parameters()}
        self.gradients: list[Gradient] = [*getattr(self, "gradients", []), gradient]
        return super().step(learning_rate)


def measure_updates(ranks: Ranks, stages: Sequence[int], precisions: Sequence[str]) -> Iterator[dict[str, object]]:
    """The deviations after a few steps of every precision and stage; only rank 0 yields."""
    batch = build_batch(build_model(lora=False))
    mine = [owner_of_group(int(group), GROUPS, 1, ranks.world_size) == ranks.rank for group in batch.groups]
    part = batch.select(torch.tensor(mine).nonzero().squeeze(-1))
    for precision in precisions:
        for stage in stages:
            model = build_model(lora=False).to(DTYPES[precision])
            weights = {name: parameter.detach().double() for name, parameter in model.named_parameters()}
            policy = Policy(model, chunk_size=7, temperature=1.0, share_prompts=False)
            engine = RecordingEngine(policy, DeepSpeedConfig(zero_stage=stage, precision=precision), OPTIMIZER, ranks)
            update = PolicyUpdate(
                engine, build_objective("dual_clip"), ranks, micro_batch_size=MicroBatchSize(sequences=5), pad_id=0
            )
            for step in range(STEPS):
                update.step(part, num_groups=GROUPS, learning_rate=RATE, step=step)
            norm = engine.weight_norm()
            expected = math.sqrt(sum(float(t.double().square().sum()) for _, t in engine.named_tensors()))
            if not math.isclose(norm, expected, rel_tol=1e-5):  # what the trainer checks after every step
                raise AssertionError(f"the norm of the weights is {norm}, not {expected}")
            found, wanted = _state(engine), _adamw(weights, engine.gradients)
            engine.close()
            for name, tensors in wanted.items():
                if ranks.is_main:
                    where = {"precision": precision, "stage": stage, "ranks": ranks.world_size}
                    yield {"part": name, **where, "deviation": deviation(found[name], tensors)}


def _adamw(weights: Gradient, gradients: Sequence[Gradient]) -> dict[str, Gradient]:
    """The state after AdamW's steps in float64, by part and parameter."""
    beta1, beta2 = OPTIMIZER.betas
    state: dict[str, Gradient] = {"weights": {}, "first moment": {}, "second moment": {}, "steps": {}}
    for name, weight in weights.items():
        first, second = torch.zeros_like(weight), torch.zeros_like(weight)
        for number, gradient in enumerate((each[name] for each in gradients), 1):
            first = beta1 * first + (1 - beta1) * gradient
            second = beta2 * second + (1 - beta2) * gradient**2
            scale = (second / (1 - beta2**number)).sqrt() + 1e-8
            weight = weight * (1 - RATE * OPTIMIZER.weight_decay) - RATE * first / (1 - beta1**number) / scale
        count = torch.tensor(float(len(gradients)))
        for part, value in zip(state, (weight, first, second, count), strict=True):
            state[part][name] = value
    return state


def _state(engine: ZeroEngine) -> dict[str, Gradient]:
    """The float32 weights and the optimizer's state, complete on every rank, by part and parameter. Collective."""
    optimizer: Any = engine._engine.optimizer
    inner = getattr(optimizer, "optimizer", optimizer)
    (steps,) = {float(state["step"]) for state in inner.state.values()}
    named = dict(engine.policy.model.named_parameters())
    if engine.stage == 0:
        masters = _masters(optimizer)
        own = {name: masters.get(parameter, parameter) for name, parameter in named.items()}
        weights = {name: master.detach() for name, master in own.items()}
        moments = [{n: inner.state[m][key] for n, m in own.items()} for key in ("exp_avg", "exp_avg_sq")]
    else:
        weights = {name: safe_get_full_fp32_param(parameter) for name, parameter in named.items()}
        moments = [
            {name: safe_get_full_optimizer_state(parameter, key) for name, parameter in named.items()}
            for key in ("exp_avg", "exp_avg_sq")
        ]
    counts = dict.fromkeys(named, torch.tensor(steps))
    return dict(zip(("weights", "first moment", "second moment", "steps"), (weights, *moments, counts), strict=True))


def _masters(optimizer: Any) -> dict[Tensor, Tensor]:
    """The float32 weight of each bfloat16 parameter on stage 0; empty in float32."""
    groups = zip(getattr(optimizer, "fp16_groups", []), getattr(optimizer, "fp32_groups", []), strict=True)
    return {parameter: master for pair in groups for parameter, master in zip(*pair, strict=True)}
