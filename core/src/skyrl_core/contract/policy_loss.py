"""What a policy loss is: the contract between a loss and whoever trains with it.

Shapes: B sequences, T response tokens, right padded. Index t of every per-token tensor describes response token t.
"""

from abc import ABC
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

import torch
from torch import Tensor

from skyrl_core.contract.metric import Metric
from skyrl_core.contract.reduction import LossReduction, count_batch, token_weights, weighted_sum
from skyrl_core.errors import MissingInputError, UndeclaredInputError
from skyrl_core.parameters.loss_params import LossParams, OpenLossParams

LOSS_API_VERSION = 1


class Need(StrEnum):
    """An input that costs something to compute; a loss gets it only if it declares it."""

    OLD_LOG_PROBS = "old_log_probs"
    """float [B, T], under the policy before this batch's first update."""
    ROLLOUT_LOG_PROBS = "rollout_log_probs"
    """float [B, T], as the rollout engine sampled them."""
    REF_LOG_PROBS = "ref_log_probs"
    """float [B, T], under the frozen reference model."""
    ENTROPY = "entropy"
    """float [B, T], exact entropy in nats of the policy's distribution of token t; carries gradient."""
    GROUPS = "groups"
    """int64 [B]: sequences of the same prompt share a number."""


class LossBatch:
    """One micro-batch as a loss sees it: floats where the mask is True, zeros elsewhere.

    Reading an input that the loss did not declare in ``needs`` is an error. ``prepared`` holds what the loss's own
    ``prepare`` returned for the minibatch.
    """

    def __init__(
        self,
        *,
        log_probs: Tensor,
        advantages: Tensor,
        mask: Tensor,
        inputs: Mapping[Need, Tensor | None] | None = None,
        needs: frozenset[Need] = frozenset(),
        prepared: Mapping[str, Tensor] | None = None,
        step: int = 0,
    ) -> None:
        """Check the shapes and fill the masked slots with zeros.

        Args:
            log_probs: float [B, T] of the sampled tokens under the policy in training; carries gradient.
            advantages: float [B, T].
            mask: bool [B, T], True where the policy chose the token.
            inputs: what was computed; only what ``needs`` names can be read.
            needs: what the loss declared.
            prepared: tensors from ``PolicyLoss.prepare``.
            step: the number of the optimizer step.

        Raises:
            ValueError: a shape differs from that of log_probs, or the mask is not bool.
            MissingInputError: a declared input was not given.
        """
        if mask.dtype != torch.bool:
            raise ValueError(f"mask must be a bool tensor, got {mask.dtype}: pass mask.bool()")
        given = {need: value for need, value in (inputs or {}).items() if value is not None}
        tensors = {"advantages": advantages, "mask": mask} | {n.value: t for n, t in given.items() if n != Need.GROUPS}
        for name, tensor in tensors.items():
            # [B] against [B, T] would broadcast without a word.
            if tensor.shape != log_probs.shape:
                raise ValueError(f"{name} has shape {list(tensor.shape)}, log_probs has {list(log_probs.shape)}")
        for need in sorted(needs - given.keys()):
            raise MissingInputError(need.value)
        self.mask = mask
        self.log_probs = torch.where(mask, log_probs, 0.0)
        # Only the policy in training learns: log_probs and its entropy carry gradient, all else is detached.
        self.advantages = torch.where(mask, advantages.detach(), 0.0)
        self.needs = needs
        self.prepared: Mapping[str, Tensor] = prepared or {}
        self.step = step
        self.read: set[Need] = set()
        self._inputs = {need: _filled(need, tensor, mask) for need, tensor in given.items()}

    @property
    def old_log_probs(self) -> Tensor:
        return self._input(Need.OLD_LOG_PROBS)

    @property
    def rollout_log_probs(self) -> Tensor:
        return self._input(Need.ROLLOUT_LOG_PROBS)

    @property
    def ref_log_probs(self) -> Tensor:
        return self._input(Need.REF_LOG_PROBS)

    @property
    def entropy(self) -> Tensor:
        return self._input(Need.ENTROPY)

    @property
    def groups(self) -> Tensor:
        return self._input(Need.GROUPS)

    @property
    def differentiable(self) -> tuple[Tensor, ...]:
        """What carries gradient to the model: the log-probs, and the entropy where it was computed."""
        entropy = self._inputs.get(Need.ENTROPY)
        return (self.log_probs,) if entropy is None else (self.log_probs, entropy)

    def view(self, needs: frozenset[Need], prepared: Mapping[str, Tensor]) -> "LossBatch":
        """The same micro-batch for a part of a composed loss, which has needs and prepared tensors of its own."""
        part = copy(self)
        part.needs, part.prepared = needs, prepared
        return part

    def _input(self, need: Need) -> Tensor:
        self.read.add(need)
        if need not in self.needs:
            raise UndeclaredInputError(need.value)
        return self._inputs[need]


def _filled(need: Need, tensor: Tensor, mask: Tensor) -> Tensor:
    if need == Need.GROUPS:
        return tensor
    return torch.where(mask, tensor if need == Need.ENTROPY else tensor.detach(), 0.0)


@dataclass(frozen=True, kw_only=True)
class TokenLosses:
    """What a loss returns: the loss of every token, not masked, not weighted, not reduced."""

    values: Tensor  # float [B, T]; carries gradient
    terms: Mapping[str, Tensor] = field(default_factory=dict)  # float [B, T] parts of values, for the log only
    metrics: Mapping[str, Metric] = field(default_factory=dict)


class PolicyLoss(ABC):
    """A policy loss: pure maths on tensors, minimised. It never sees the model and owns no parameters.

    A subclass declares ``name``, ``Params``, ``api_version``, ``semantics_version`` and ``reference`` and overrides
    ``token_losses``. A subclass may instead override ``compute_loss`` alone (the scalar form): it trains too, and its
    scalar is weighted by its share of the valid tokens, which is exact for token means.
    """

    name: ClassVar[str] = ""
    """Equals the entry-point name."""
    Params: ClassVar[type[LossParams]] = OpenLossParams
    api_version: ClassVar[int]
    """The version of this contract that the loss is written for. Declared in the class itself, never inherited."""
    semantics_version: ClassVar[int]
    """Goes up when the numbers change."""
    reference: ClassVar[str] = ""
    """Paper and equation."""
    default_reduction: ClassVar[LossReduction] = "token_mean"
    """The paper's own reduction; ``trainer.algorithm.loss_reduction`` overrides it."""
    ignores_advantages: ClassVar[bool] = False
    """A supervised loss says so; of any other, the conformance rules demand that the advantage steers the gradient."""

    params: Any = OpenLossParams()
    """An instance of ``Params``; empty for a class whose own ``__init__`` keeps its parameters elsewhere."""

    def __init__(self, params: LossParams) -> None:
        self.params = params

    @classmethod
    def needs(cls, params: Any) -> frozenset[Need]:  # noqa: ARG003 - subclasses decide by their parameters
        """The inputs that the loss reads under these parameters; the trainer computes exactly these."""
        return frozenset({Need.OLD_LOG_PROBS})

    def prepare(self, minibatch: LossBatch) -> dict[str, Tensor]:  # noqa: ARG002 - most losses need nothing
        """Once per optimizer step, before its micro-batches: statistics of the minibatch of all ranks, detached.

        What it returns is ``batch.prepared`` in every ``token_losses`` call of the step.
        """
        return {}

    @property
    def adapts(self) -> bool:
        """Whether ``after_step`` does anything: if not, the metrics of single optimizer steps need not be merged."""
        return type(self).after_step is not PolicyLoss.after_step

    def after_step(self, metrics: Mapping[str, float]) -> None:  # noqa: B027 - most losses do nothing here
        """Once after each optimizer step: what the loss logged, merged over the micro-batches of all ranks.

        For a loss that adapts a coefficient. ``metrics`` has every metric and every term under its name, the same
        numbers on all ranks. What changes here belongs in ``state_dict``.
        """

    def state_dict(self) -> dict[str, float]:
        """What ``after_step`` has changed: numbers that JSON keeps exactly. They are saved with every checkpoint."""
        return {}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from what ``state_dict`` returned, also after a schedule has changed the parameters.

        Raises:
            ValueError: the state is that of another loss.
        """
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, but was given {', '.join(sorted(state))}")

    @classmethod
    def components(cls, params: Any) -> tuple[tuple[str, Mapping[str, Any]], ...]:  # noqa: ARG003 - for composed losses
        """The losses that this one is composed of, each as reference and parameters: they belong to its identity."""
        return ()

    def token_losses(self, batch: LossBatch) -> TokenLosses:
        """The loss of every token, [B, T]. Neither masks nor averages: the trainer does both."""
        raise NotImplementedError(f"{type(self).__name__} overrides neither token_losses nor compute_loss")

    def compute_loss(  # noqa: PLR0913 - without a trainer, each input is an argument
        self,
        log_probs: Tensor,
        old_log_probs: Tensor | None,
        advantages: Tensor,
        masks: Tensor,
        *,
        loss_reduction: LossReduction | None = None,
        max_length: int | None = None,
        rollout_log_probs: Tensor | None = None,
        ref_log_probs: Tensor | None = None,
        entropy: Tensor | None = None,
        groups: Tensor | None = None,
        step: int = 0,
    ) -> Tensor:
        """The scalar loss of one whole batch, for use without the trainer: [B, T] each, float32 or float64.

        Raises:
            ValueError: shapes or dtypes do not fit.
            MissingInputError: the loss declares an input that was not given.
        """
        mask = masks.bool()
        batch = LossBatch(
            log_probs=log_probs,
            advantages=advantages,
            mask=mask,
            needs=self.needs(self.params),
            inputs={
                Need.OLD_LOG_PROBS: old_log_probs,
                Need.ROLLOUT_LOG_PROBS: rollout_log_probs,
                Need.REF_LOG_PROBS: ref_log_probs,
                Need.ENTROPY: entropy,
                Need.GROUPS: groups,
            },
            step=step,
        )
        with torch.no_grad():
            batch.prepared = self.prepare(batch)
        weights = token_weights(
            mask,
            loss_reduction or self.default_reduction,
            count_batch(mask, groups),
            groups=groups,
            max_length=max_length,
            dtype=log_probs.dtype,
        )
        return weighted_sum(self.token_losses(batch).values, weights, mask)


def is_scalar_form(loss: type[PolicyLoss]) -> bool:
    """Whether the class overrides ``compute_loss`` alone, so that only a reduced scalar can be had from it."""
    return loss.token_losses is PolicyLoss.token_losses
