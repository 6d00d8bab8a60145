"""Checks whether a step stays the same without the sequences whose advantages are all zero."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from skyrl_core.conformance.batches import ExampleBatch, example_batch, wide_batch
from skyrl_core.conformance.trial import run
from skyrl_core.contract.policy_loss import PolicyLoss


def effect_of_zero_advantages(loss: PolicyLoss) -> str | None:
    """Describe what sequences of zero advantage add to the gradient; None if they add nothing.

    Normalisation and the result of ``prepare`` are those of the entire minibatch in both cases, as in training.
    """
    for batch in (example_batch(), wide_batch()):
        for has_advantage in _choices(len(batch.mask)):
            effect = _effect(loss, batch, has_advantage)
            if effect is not None:
                return effect
    return None


def _choices(count: int) -> Iterator[Tensor]:
    """Yield the sequences that have advantages, bool [B]: none, each one, all but each one."""
    one = torch.eye(count, dtype=torch.bool)
    yield torch.zeros(count, dtype=torch.bool)
    yield from one
    yield from ~one


def _effect(loss: PolicyLoss, batch: ExampleBatch, has_advantage: Tensor) -> str | None:
    batch = batch.floats(Tensor.clone)
    batch.advantages[~has_advantage] = 0.0
    full = run(loss, batch)
    for name, gradient in (("log_probs", full.gradient), ("entropy", full.entropy_gradient)):
        idle = torch.where((batch.mask & ~has_advantage[:, None]), gradient, 0.0)
        if idle.any():
            row, column = divmod(int(idle.abs().argmax()), idle.shape[1])
            return f"d loss / d {name}{[row, column]} is {float(idle[row, column]):.3g} at advantage 0"
    rows = has_advantage.nonzero().squeeze(-1)
    # Without any row this is an empty micro-batch, as a rank runs one.
    without = run(loss, batch, parts=[rows])
    # The value may differ, for instance by a constant; only the gradient matters.
    difference = full.difference(replace(without, total=full.total))
    return None if difference is None else f"without them {difference}"
