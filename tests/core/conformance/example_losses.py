"""A correct loss from which the test losses derive, and the declarations that the contract demands."""

from typing import Any

from torch import Tensor

from skyrl_core import LossBatch, LossParams, PolicyLoss, TokenLosses


class Correct(PolicyLoss):
    """A policy gradient with an importance ratio; subclasses override one part of it."""

    name = "correct"
    Params = LossParams
    api_version = 1
    semantics_version = 1

    def values(self, batch: LossBatch) -> Any:
        losses: Tensor = -(batch.log_probs - batch.old_log_probs).clamp(-20, 20).exp() * batch.advantages
        return losses

    def token_losses(self, batch: LossBatch) -> TokenLosses:
        return TokenLosses(values=self.values(batch))


def declared(cls: type[Correct]) -> type[Correct]:
    """Add to a class the attributes that every loss class must declare in its body."""
    cls.name, cls.api_version, cls.semantics_version = cls.__name__, 1, 1
    cls.Params = vars(cls).get("Params", LossParams)
    return cls
