"""Rule ``masked_tokens``: masked tokens have no influence on the loss or its gradient."""

import torch

from skyrl_core.conformance.batches import ExampleBatch
from skyrl_core.conformance.rule import Rule, Violation
from skyrl_core.conformance.trial import run
from skyrl_core.contract.policy_loss import PolicyLoss


def check_masked_tokens(loss: PolicyLoss, batch: ExampleBatch) -> list[str]:
    """Put other values into the masked positions, then insert more masked positions.

    No gradient can reach a masked position, because ``LossBatch`` replaces its values before the loss reads them.
    """
    expected = run(loss, batch)
    for fill in (1e4, torch.inf, torch.nan):
        if difference := expected.difference(run(loss, batch.with_masked(fill))):
            raise Violation(f"with {fill:g} in the masked positions {difference}", batch=batch)
    width = batch.mask.shape[1]
    for position in (0, min(3, width - 1)):
        trial = run(loss, batch.with_masked_column(position, torch.nan))
        if difference := expected.difference(trial.take(torch.arange(width + 1) != position)):
            found = f"with one more masked token before token {position} of every sequence {difference}"
            raise Violation(found, batch=batch)
    return []


MASKED_TOKENS = Rule(
    name="masked_tokens",
    explanation="masked tokens have no influence on the loss or its gradient",
    remedy="use masked_mean or sequence_mean instead of .mean(), and mask neighbouring tokens before reading them",
    counterexample="losses.mean() over padding; weighting a token by its left neighbour, masked or not",
    check=check_masked_tokens,
)
