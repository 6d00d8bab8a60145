"""A wait for the device in every micro-batch is noted with its line; the loss is slow, not wrong."""

import pytest
import torch
from tests.core.conformance.example_losses import Correct, declared
from torch import Tensor

from skyrl_core import LossBatch, LossParams, Metric, Prepared, TokenLosses
from skyrl_core.conformance import check_policy_loss


@declared
class LooksAtItsRatio(Correct):
    def values(self, batch: LossBatch) -> Tensor:
        ratio = (batch.log_probs - batch.old_log_probs).clamp(-20, 20).exp().detach()
        if ratio.max() > 10:
            return super().values(batch) * 1.0
        return super().values(batch)


@declared
class LogsAnItem(Correct):
    def token_losses(self, batch: LossBatch) -> TokenLosses:
        values = self.values(batch)
        self.last = values.mean().item()
        return TokenLosses(values=values)


@declared
class IndexesWithAMask(Correct):
    def token_losses(self, batch: LossBatch) -> TokenLosses:
        values = self.values(batch)
        metrics = {"largest": Metric.max(values[batch.mask], batch.mask[batch.mask])}
        return TokenLosses(values=values, metrics=metrics)


@declared
class CopiesToTheHost(Correct):
    def token_losses(self, batch: LossBatch) -> TokenLosses:
        batch.advantages.cpu()
        return super().token_losses(batch)


@declared
class WaitsOncePerStep(Correct):
    def prepare(self, minibatch: LossBatch) -> Prepared:
        return Prepared(per_minibatch={"mean": torch.full((), minibatch.advantages.mean().item())})


@pytest.mark.parametrize(
    ("slow", "action"),
    [
        (LooksAtItsRatio, "calls bool()"),
        (LogsAnItem, "calls item()"),
        (IndexesWithAMask, "indexes with a mask"),
        (CopiesToTheHost, "calls cpu()"),
        (WaitsOncePerStep, None),
        (Correct, None),
    ],
)
def test_waiting_for_the_device_in_every_micro_batch_is_noted_with_the_line(
    slow: type[Correct], action: str | None
) -> None:
    report = check_policy_loss(slow(LossParams()), thorough=True)
    report.raise_for_failures()
    [result] = [result for result in report.results if result.rule == "no_host_sync"]
    if action is None:
        assert result.notes == ()
    else:
        assert result.notes[0].startswith("test_no_host_sync.py, line ")
        assert f" {action}: on a GPU this waits for the device" in result.notes[0]
