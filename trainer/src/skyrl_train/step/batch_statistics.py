"""Computes batch statistics for a loss: on the minibatch of all ranks, before its micro-batches."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from skyrl_core.contract import LossBatch, Need, Prepared
from skyrl_train.ranks.ranks import Ranks
from skyrl_train.step.batching import MicroBatch
from skyrl_train.step.experience import Experience
from skyrl_train.step.objective import Objective


@dataclass(frozen=True, kw_only=True)
class BatchStatistics:
    """The result of ``Objective.prepare`` for all ranks, and the position of this rank's rows."""

    prepared: Prepared = field(default_factory=Prepared)
    start: int = 0  # row of this rank's first sequence

    def part(self, micro: MicroBatch) -> dict[str, Tensor]:
        """The tensors of a micro-batch; a filler, which is masked, gets an arbitrary row."""
        rows = torch.zeros_like(micro.experience.groups) if micro.is_filler else micro.rows + self.start
        return self.prepared.part(rows, micro.experience.mask.shape[1])


def prepare(
    objective: Objective,
    minibatch: Experience,
    inputs: Mapping[Need, Tensor | None],
    log_probs: Tensor,
    ranks: Ranks,
    *,
    step: int,
) -> BatchStatistics:
    """Pass the sequences of all ranks to ``Objective.prepare``. log_probs: float32 [N, T]. Collective."""
    own = {"log_probs": log_probs, "advantages": minibatch.advantages, "mask": minibatch.mask}
    own |= {need.value: tensor for need, tensor in inputs.items() if tensor is not None}
    gathered = ranks.gather({name: tensor.detach().cpu() for name, tensor in own.items()})
    sizes = [len(part["mask"]) for part in gathered]
    stacked = {name: _stack([part[name] for part in gathered]).to(ranks.device) for name in own}
    log_probs, advantages, mask = (stacked.pop(name) for name in ("log_probs", "advantages", "mask"))
    known = {Need(name): tensor for name, tensor in stacked.items()}
    batch = LossBatch(
        log_probs=log_probs, advantages=advantages, mask=mask, inputs=known, needs=objective.needs, step=step
    )
    return BatchStatistics(prepared=objective.prepare(batch, known), start=sum(sizes[: ranks.rank]))


def _stack(parts: list[Tensor]) -> Tensor:
    width = max((part.shape[1] for part in parts if part.ndim > 1), default=0)
    padded = [torch.nn.functional.pad(p, (0, width - p.shape[1])) if p.ndim > 1 else p for p in parts]
    return torch.cat(padded)
