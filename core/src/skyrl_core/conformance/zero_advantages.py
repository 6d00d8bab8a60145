"""Measures whether a step is the same without the sequences whose advantages are all zero."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from skyrl_core.conformance.batches import ExampleBatch, example_batch, wide_batch
from skyrl_core.conformance.trial import run
from skyrl_core.contract.policy_loss import PolicyLoss


def effect_of_zero_advantages(loss: PolicyLoss) -> str | None:
    """In words with numbers, what sequences of zero advantage add to the gradient; None where it is nothing.

    Normalisation and what ``prepare`` returns are those of the whole minibatch in both cases, as in training.
    """
    for batch in (example_batch(), wide_batch()):
        for learns in _choices(len(batch.mask)):
            effect = _effect(loss, batch, learns)
            if effect is not None:
                return effect
    return None


def _choices(count: int) -> Iterator[Tensor]:
    """bool [B], the sequences that have advantages: none of them, one of them, all but one."""
    one = torch.eye(count, dtype=torch.bool)
    yield torch.zeros(count, dtype=torch.bool)
    yield from one
    yield from ~one


def _effect(loss: PolicyLoss, batch: ExampleBatch, learns: Tensor) -> str | None:
    batch = batch.floats(Tensor.clone)
    batch.advantages[~learns] = 0.0
    whole = run(loss, batch)
    for name, gradient in (("log_probs", whole.gradient), ("entropy", whole.entropy_gradient)):
        idle = torch.where((batch.mask & ~learns[:, None]), gradient, 0.0)
        if idle.any():
            row, column = divmod(int(idle.abs().argmax()), idle.shape[1])
            return f"d loss / d {name}{[row, column]} is {float(idle[row, column]):.3g} at advantage 0"
    rows = learns.nonzero().squeeze(-1)
    # No row at all: a filler, as a rank runs one.
    without = run(loss, batch, parts=[rows])
    # The loss itself may have a value there, such as a constant; what matters is the gradient.
    difference = whole.difference(replace(without, total=whole.total))
    return None if difference is None else f"without them {difference}"
