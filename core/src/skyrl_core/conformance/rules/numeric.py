"""Rules about the numbers of a loss: finite, blind to masked tokens, the same however a batch is split, well signed."""

import torch

from skyrl_core.conformance.batches import ExampleBatch, extreme_batches, far_batches
from skyrl_core.conformance.rules.rule import Rule, Violation
from skyrl_core.conformance.trial import FILLER, Trial, run
from skyrl_core.contract.policy_loss import PolicyLoss, is_scalar_form

# exp(50) = 5e21 is an honest float32; its square is not, nor is a product over tokens.
FAR, VERY_FAR = 50.0, 200.0


def check_finite(loss: PolicyLoss, base: ExampleBatch) -> list[str]:
    """Extreme but possible batches."""
    for description, batch in extreme_batches(base, FAR).items():
        trial = run(loss, batch)
        if not trial.is_finite:
            raise Violation(f"{description}: loss {float(trial.total):g}, {_gradient(trial)}", batch=batch)
    notes = []
    for description, batch in far_batches(base, VERY_FAR).items():
        if not run(loss, batch).is_finite:
            notes.append(f"{description}: not finite; clamp the log-ratio before exp to be safe from a broken token")
    return notes


def check_masked_tokens(loss: PolicyLoss, batch: ExampleBatch) -> list[str]:
    """Other contents of masked slots, and more masked slots."""
    expected = run(loss, batch)
    for fill in (1e4, torch.inf, torch.nan):
        trial = run(loss, batch.with_masked(fill))
        if difference := expected.difference(trial):
            raise Violation(f"with {fill:g} in the masked slots {difference}", batch=batch)
        if trial.gradient[~batch.mask].any():
            found = f"with {fill:g} in the masked slots they have a gradient, {_gradient(trial)}"
            raise Violation(found, batch=batch)
    width = batch.mask.shape[1]
    for position in (0, min(3, width - 1)):
        trial = run(loss, batch.with_masked_column(position, torch.nan))
        if difference := expected.difference(trial.take(torch.arange(width + 1) != position)):
            found = f"with one masked token more before token {position} of every sequence {difference}"
            raise Violation(found, batch=batch)
    return []


def check_partition_invariance(loss: PolicyLoss, batch: ExampleBatch) -> list[str]:
    """Padding width and row order, and micro-batches of other rows and widths, on several ranks."""
    expected = run(loss, batch)
    size, width = batch.mask.shape
    padded = batch.with_masked_column(width, torch.nan).with_masked_column(width, torch.nan)
    if difference := expected.difference(run(loss, padded).take(torch.arange(width + 2) < width)):
        raise Violation(f"with two columns of padding more {difference}", batch=batch)
    order = torch.cat([torch.arange(1, size, 2).flip(0), torch.arange(0, size, 2)])
    if difference := expected.difference(run(loss, batch, [order])):
        raise Violation(f"with the sequences in another order {difference}", batch=batch)
    for parts in _partitions(order):
        trial = run(loss, batch, parts)
        difference = expected.difference(trial)
        if difference and is_scalar_form(type(loss)):
            return [
                f"not exact under micro-batches: in parts of {_sizes(parts)} sequences {difference}. A scalar is "
                "weighted by its share of the tokens, which is exact for a mean over tokens only; override "
                "token_losses to be exact"
            ]
        if difference := difference or expected.metric_difference(trial):
            found = f"the sum over micro-batches of {_sizes(parts)} sequences is not the whole: {difference}"
            raise Violation(found, batch=batch)
    return []


def _partitions(order: torch.Tensor) -> list[list[torch.Tensor]]:
    """Two micro-batches, uneven ones on two ranks of which one needs a filler, and one for each sequence."""
    half = max(len(order) // 2, 1)
    uneven = [order[:1], *order[1:].split(half), FILLER]
    return [list(order.split(half)), [rows for rows in uneven if rows is FILLER or len(rows)], list(order.split(1))]


def check_gradient_sign(loss: PolicyLoss, base: ExampleBatch) -> list[str]:
    """On policy, what the advantage adds to the gradient: terms without the advantage cancel."""
    batch = base.on_policy()
    effect = advantage_effect(loss, batch)
    if type(loss).ignores_advantages:
        return _check_ignored(effect)
    # A descent step moves log_probs against the gradient.
    wrong = effect * batch.advantages > 1e-6 * effect.abs().max()
    if wrong.any():
        row, column = (int(i) for i in wrong.nonzero()[0])
        sign = "+1" if batch.advantages[row, column] > 0 else "-1"
        moves = "lowers" if sign == "+1" else "raises"
        raise Violation(
            f"at ratio 1 the advantage {sign} of token [{row}, {column}] adds {float(effect[row, column]):.6g} to "
            f"d loss / d log_prob: a step {moves} its log-prob",
            batch=batch,
        )
    if not (effect * batch.advantages < 0)[batch.advantages > 0].any():
        raise Violation("at ratio 1 no token with advantage +1 gets any gradient from its advantage", batch=batch)
    if not (effect * batch.advantages < 0)[batch.advantages < 0].any():
        return ["tokens with a negative advantage get no gradient at ratio 1: the loss learns from good samples only"]
    return []


def advantage_effect(loss: PolicyLoss, batch: ExampleBatch) -> torch.Tensor:
    """What the advantages add to d loss / d log_prob, [B, T]."""
    none = run(loss, batch.with_advantages(torch.zeros(len(batch.mask))))
    return torch.where(batch.mask, run(loss, batch).gradient - none.gradient, 0.0)


def _check_ignored(effect: torch.Tensor) -> list[str]:
    # A supervised loss is right without advantages; a forgotten one is not, hence the declaration.
    if effect.any():
        row, column = (int(i) for i in effect.nonzero()[0])
        raise Violation(
            f"the class declares ignores_advantages, and the advantage of token [{row}, {column}] adds "
            f"{float(effect[row, column]):.6g} to d loss / d log_prob",
            remedy="remove ignores_advantages, or the advantages from the loss",
        )
    return []


def _gradient(trial: Trial) -> str:
    bad = ~trial.gradient.isfinite() if not trial.is_finite else trial.gradient != 0
    if not bad.any():
        return "gradient to log_probs finite"
    row, column = (int(i) for i in bad.nonzero()[0])
    return f"d loss / d log_probs[{row}, {column}] = {float(trial.gradient[row, column]):g}"


def _sizes(parts: list[torch.Tensor]) -> str:
    return "+".join(str(len(rows)) for rows in parts)


FINITE = Rule(
    name="finite",
    explanation="loss and gradient are finite at log-ratios of ±50, for lengths 0 and 1 and for a batch without tokens",
    remedy="clamp the log-ratio before exp, and denominators with .clamp(min=1)",
    breaks="exp(log_probs - old_log_probs) ** 2, which overflows; a mean over a sequence without any token, 0 / 0",
    check=check_finite,
)
MASKED_TOKENS = Rule(
    name="masked_tokens",
    explanation="a masked token changes neither the loss nor the gradient of any other",
    remedy="use masked_mean or sequence_mean instead of .mean(), and do not read neighbours of a token past the mask",
    breaks="losses.mean() over the padding; a token that is weighted by its left neighbour, masked or not",
    check=check_masked_tokens,
)
PARTITION_INVARIANCE = Rule(
    name="partition_invariance",
    explanation="micro-batches and ranks add up to the whole batch, metrics too, whatever the order and the padding",
    remedy="do not average inside the loss; take statistics of the batch in prepare(minibatch), which sees all of it",
    breaks="dividing by the tokens of the micro-batch; advantages whitened within the micro-batch",
    check=check_partition_invariance,
    requires=("masked_tokens",),
)
GRADIENT_SIGN = Rule(
    name="gradient_sign",
    explanation="a step raises the log-prob of tokens with A > 0 and lowers that of tokens with A < 0, at ratio 1",
    remedy="losses are minimised: multiply -ratio by the advantages, with their sign",
    breaks="a forgotten minus; the absolute value of the advantage",
    check=check_gradient_sign,
)
