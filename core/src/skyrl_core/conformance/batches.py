"""The synthetic batches that losses are checked on. Shapes: B sequences, T response tokens."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from skyrl_core.contract.policy_loss import Need


@dataclass(frozen=True, kw_only=True)
class ExampleBatch:
    """Everything that a trainer could give to a loss. float32 [B, T] where nothing else is said."""

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
        """What a loss gets when it declares it."""
        return {need: getattr(self, need.value) for need in Need}

    def floats(self, change: Callable[[Tensor], Tensor]) -> "ExampleBatch":
        """The batch with every float tensor changed."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: change(t) for name, t in tensors.items() if t.is_floating_point()})

    def take(self, rows: Tensor, width: int) -> "ExampleBatch":
        """These sequences, int64 [b], and the first ``width`` tokens of each."""
        cut = self.floats(lambda tensor: tensor[rows, :width])
        return replace(cut, mask=self.mask[rows, :width], groups=self.groups[rows])

    def widest(self, rows: Tensor) -> int:
        """How many columns it takes to hold every unmasked token of these sequences; at least 1."""
        used = self.mask[rows].any(0).nonzero()
        return int(used.max()) + 1 if len(used) else 1

    def with_masked_column(self, position: int, fill: float) -> "ExampleBatch":
        """The batch with one masked token more in every sequence, before column ``position``."""
        size = (len(self.mask), 1)

        def insert(tensor: Tensor) -> Tensor:
            return torch.cat([tensor[:, :position], tensor.new_full(size, fill), tensor[:, position:]], 1)

        no = self.mask.new_zeros(size)
        return replace(self.floats(insert), mask=torch.cat([self.mask[:, :position], no, self.mask[:, position:]], 1))

    def with_masked(self, fill: float) -> "ExampleBatch":
        """The batch with another value in every masked slot of every float tensor."""
        return self.floats(lambda tensor: torch.where(self.mask, tensor, fill))

    def with_log_ratio(self, log_ratio: float) -> "ExampleBatch":
        """The batch with every other policy so far from log_probs that each log-ratio is ``log_ratio``."""
        anchor = self.log_probs - log_ratio
        return replace(self, old_log_probs=anchor, rollout_log_probs=anchor.clone(), ref_log_probs=anchor.clone())

    def with_advantages(self, advantages: Tensor) -> "ExampleBatch":
        """The batch with the advantages of its sequences, float [B]."""
        return replace(self, advantages=advantages.to(self.log_probs).unsqueeze(-1).expand_as(self.mask).clone())

    def on_policy(self) -> "ExampleBatch":
        """The batch with every ratio 1, and advantages of +1 and -1 in turn."""
        return self.with_log_ratio(0.0).with_advantages(1 - 2.0 * (torch.arange(len(self.mask)) % 2))

    def to(self, dtype: torch.dtype) -> "ExampleBatch":
        """The batch with every float tensor in this dtype."""
        return self.floats(lambda tensor: tensor.to(dtype))


def example_batch() -> ExampleBatch:
    """Six sequences of up to 7 tokens in three groups, off policy, with ragged masks and holes. Always the same."""
    return _batch(certainty=2.0, spread=0.3, mismatch=0.05, advantage=1.0)


def wide_batch() -> ExampleBatch:
    """The same shape with what is rare: unlikely tokens, ratios of 0.02 to 50 to every policy, large advantages."""
    return _batch(certainty=8.0, spread=1.5, mismatch=1.0, advantage=3.0)


def _batch(*, certainty: float, spread: float, mismatch: float, advantage: float) -> ExampleBatch:
    lengths = torch.tensor([7, 5, 1, 4, 2, 6])
    mask = torch.arange(8) < lengths.unsqueeze(-1)
    mask[0, 2] = mask[3, 1] = False  # text that the policy did not choose, such as the answer of a tool
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


def extreme_batches(batch: ExampleBatch, log_ratio: float) -> dict[str, ExampleBatch]:
    """Batches that training meets and example code forgets, smallest first, each under its description."""
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
    """Batches with both signs of the advantage whose log-ratios all have this size, under their description."""
    return {
        f"every log-ratio {math.copysign(log_ratio, sign):+g}": batch.on_policy().with_log_ratio(sign * log_ratio)
        for sign in (1, -1)
    }
