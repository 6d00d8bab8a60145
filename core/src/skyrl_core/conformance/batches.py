"""The synthetic batches that losses are checked on. Shapes: B sequences, T response tokens."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from skyrl_core.contract.policy_loss import Need


@dataclass(frozen=True, kw_only=True)
class ExampleBatch:
    """Every input that a trainer can give to a loss; float32 [B, T] unless noted."""

    log_probs: Tensor
    entropy: Tensor
    advantages: Tensor
    old_log_probs: Tensor
    rollout_log_probs: Tensor
    ref_log_probs: Tensor
    mask: Tensor  # bool [B, T]
    groups: Tensor  # int64 [B]

    @property
    def inputs(self) -> dict[Need, Tensor | None]:
        """The inputs that a loss gets if it declares them."""
        return {need: getattr(self, need.value) for need in Need}

    def floats(self, change: Callable[[Tensor], Tensor]) -> "ExampleBatch":
        """Apply a function to every float tensor."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: change(t) for name, t in tensors.items() if t.is_floating_point()})

    def take(self, rows: Tensor, width: int) -> "ExampleBatch":
        """Select sequences, int64 [b], and the first ``width`` tokens of each."""
        cut = self.floats(lambda tensor: tensor[rows, :width])
        return replace(cut, mask=self.mask[rows, :width], groups=self.groups[rows])

    def widest(self, rows: Tensor) -> int:
        """Return the number of columns that hold every unmasked token of these sequences; at least 1."""
        used = self.mask[rows].any(0).nonzero()
        return int(used.max()) + 1 if len(used) else 1

    def with_masked_column(self, position: int, fill: float) -> "ExampleBatch":
        """Insert one masked token into every sequence, before column ``position``."""
        size = (len(self.mask), 1)

        def insert(tensor: Tensor) -> Tensor:
            return torch.cat([tensor[:, :position], tensor.new_full(size, fill), tensor[:, position:]], 1)

        masked = self.mask.new_zeros(size)
        mask = torch.cat([self.mask[:, :position], masked, self.mask[:, position:]], 1)
        return replace(self.floats(insert), mask=mask)

    def with_masked(self, fill: float) -> "ExampleBatch":
        """Fill the masked positions of every float tensor."""
        return self.floats(lambda tensor: torch.where(self.mask, tensor, fill))

    def with_log_ratio(self, log_ratio: float) -> "ExampleBatch":
        """Move every other policy so far from log_probs that each log-ratio is ``log_ratio``."""
        anchor = self.log_probs - log_ratio
        return replace(self, old_log_probs=anchor, rollout_log_probs=anchor.clone(), ref_log_probs=anchor.clone())

    def spread(self, factor: float) -> "ExampleBatch":
        """Multiply log-probs, log-ratios and advantages by a factor, which makes them rare for a factor above 3."""
        return replace(self.floats(lambda tensor: factor * tensor), entropy=self.entropy)

    def with_advantages(self, advantages: Tensor) -> "ExampleBatch":
        """Give each sequence one advantage, float [B]."""
        return replace(self, advantages=advantages.to(self.log_probs).unsqueeze(-1).expand_as(self.mask).clone())

    def on_policy(self) -> "ExampleBatch":
        """Set every ratio to 1, and the advantages to +1 and -1 alternately."""
        return self.with_log_ratio(0.0).with_advantages(1 - 2.0 * (torch.arange(len(self.mask)) % 2))

    def to(self, dtype: torch.dtype) -> "ExampleBatch":
        """Convert every float tensor."""
        return self.floats(lambda tensor: tensor.to(dtype))


def example_batch() -> ExampleBatch:
    """Return six sequences of up to 7 tokens in three groups, off policy, with masks that have holes; a constant."""
    return _batch(certainty=2.0, spread=0.3, mismatch=0.05, advantage=1.0)


def equal_sizes(batch: ExampleBatch) -> ExampleBatch:
    """Return the batch with as many columns and groups as sequences, so that no size tells what a tensor is about."""
    rows = torch.arange(len(batch.mask))
    return replace(batch.take(rows, len(rows)), groups=rows)


def wide_batch() -> ExampleBatch:
    """Return the same shape with rare values: unlikely tokens, ratios from 0.02 to 50, large advantages."""
    return _batch(certainty=8.0, spread=1.5, mismatch=1.0, advantage=3.0)


def _batch(*, certainty: float, spread: float, mismatch: float, advantage: float) -> ExampleBatch:
    lengths = torch.tensor([7, 5, 1, 4, 2, 6])
    mask = torch.arange(8) < lengths.unsqueeze(-1)
    mask[0, 2] = mask[3, 1] = False  # text that the policy did not generate, such as the output of a tool
    generator = torch.Generator().manual_seed(20261123)

    def normal(scale: float) -> Tensor:
        return scale * torch.randn(mask.shape, generator=generator, dtype=torch.float32)

    log_probs = -0.05 - certainty * torch.rand(mask.shape, generator=generator, dtype=torch.float32)
    old_log_probs = log_probs + normal(spread)
    return ExampleBatch(
        log_probs=log_probs,
        entropy=0.1 + torch.rand(mask.shape, generator=generator, dtype=torch.float32),
        advantages=normal(advantage),
        old_log_probs=old_log_probs,
        rollout_log_probs=old_log_probs + normal(mismatch),
        ref_log_probs=log_probs + normal(spread),
        mask=mask,
        groups=torch.tensor([0, 0, 1, 1, 2, 2]),
    )


def long_batch(width: int) -> ExampleBatch:
    """Return one sequence of ``width`` tokens, slightly off policy, as of a rollout engine; a constant."""
    generator = torch.Generator().manual_seed(20261129)

    def draw(scale: float) -> Tensor:
        return scale * torch.randn((1, width), generator=generator, dtype=torch.float32)

    log_probs = -0.01 - draw(1.0).abs()
    old_log_probs = log_probs + draw(0.01)
    return ExampleBatch(
        log_probs=log_probs,
        entropy=0.1 + draw(1.0).abs(),
        advantages=torch.ones(1, width, dtype=torch.float32),
        old_log_probs=old_log_probs,
        rollout_log_probs=old_log_probs + draw(0.005),
        ref_log_probs=log_probs + draw(0.01),
        mask=torch.ones(1, width, dtype=torch.bool),
        groups=torch.zeros(1, dtype=torch.int64),
    )


def extreme_batches(batch: ExampleBatch, log_ratio: float) -> dict[str, ExampleBatch]:
    """Return rare batches that training meets, smallest first, by description."""
    lengths = batch.mask.sum(-1)
    one = batch.take(lengths.argmin().reshape(1), 1)
    rows = torch.arange(len(batch.mask)).unsqueeze(-1)
    return {
        "one sequence of one token": one,
        "a sequence without any token": replace(batch, mask=batch.mask & (rows != lengths.argmin())),
        "a batch without any token": replace(batch, mask=torch.zeros_like(batch.mask)),
        "all advantages zero": batch.with_advantages(torch.zeros(len(batch.mask))),
        **far_batches(batch, log_ratio),
    }


def far_batches(batch: ExampleBatch, log_ratio: float) -> dict[str, ExampleBatch]:
    """Return on-policy batches moved to log-ratios of this size, with either sign, by description."""
    return {
        f"every log-ratio {math.copysign(log_ratio, sign):+g}": batch.on_policy().with_log_ratio(sign * log_ratio)
        for sign in (1, -1)
    }
