"""The contract between a policy loss and a trainer.

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
from skyrl_core.contract.prepared import Prepared, checked_prepared
from skyrl_core.contract.reduction import LossReduction, count_batch, token_weights, weighted_sum
from skyrl_core.errors import MissingInputError, UndeclaredInputError
from skyrl_core.parameters.loss_params import LossParams, OpenLossParams

LOSS_API_VERSION = 1


class Need(StrEnum):
    """An input that takes extra computation; a loss gets it only if it declares it."""

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
    """One micro-batch as a loss sees it: values where the mask is True, zeros elsewhere.

    Reading an input that the loss did not declare in ``needs`` is an error. ``prepared`` holds what the loss's
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
            mask: bool [B, T], True where the policy generated the token.
            inputs: the computed inputs; the loss can read only those in ``needs``.
            needs: the inputs that the loss declared.
            prepared: tensors from ``PolicyLoss.prepare``.
            step: the number of the optimizer step.

        Raises:
            ValueError: a shape differs from that of log_probs, or the mask is not bool.
            MissingInputError: a declared input is missing.
        """
        if mask.dtype != torch.bool:
            raise ValueError(f"mask must be a bool tensor, got {mask.dtype}: pass mask.bool()")
        given = {need: value for need, value in (inputs or {}).items() if value is not None}
        tensors = {"advantages": advantages, "mask": mask} | {n.value: t for n, t in given.items() if n != Need.GROUPS}
        for name, tensor in tensors.items():
            # [B] against [B, T] would broadcast silently.
            if tensor.shape != log_probs.shape:
                raise ValueError(f"{name} has shape {list(tensor.shape)}, log_probs has {list(log_probs.shape)}")
        for need in sorted(needs - given.keys()):
            raise MissingInputError(need.value)
        self.mask = mask
        self.log_probs = torch.where(mask, log_probs, 0.0)
        # Only the policy in training learns: log_probs and entropy carry gradient, everything else is detached.
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
        """The tensors that carry gradient to the model: the log-probs, and the entropy if it was computed."""
        entropy = self._inputs.get(Need.ENTROPY)
        return (self.log_probs,) if entropy is None else (self.log_probs, entropy)

    def view(self, needs: frozenset[Need], prepared: Mapping[str, Tensor]) -> "LossBatch":
        """The same micro-batch for one part of a composed loss, with that part's needs and prepared tensors."""
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
    """The result of a loss: one loss per token, not masked, not weighted, not reduced."""

    values: Tensor  # float [B, T]; carries gradient
    terms: Mapping[str, Tensor] = field(default_factory=dict)  # float [B, T] parts of values, for logging only
    metrics: Mapping[str, Metric] = field(default_factory=dict)


class PolicyLoss(ABC):
    """A policy loss: pure maths on tensors, minimised. It never sees the model and owns no parameters.

    A subclass declares ``name``, ``Params``, ``api_version``, ``semantics_version`` and ``reference`` and overrides
    ``token_losses``. A subclass may instead override only ``compute_loss`` (the scalar form): the trainer
    weights its scalar by the micro-batch's share of the valid tokens, which is exact for token means.
    """

    name: ClassVar[str] = ""
    """Equals the entry-point name."""
    Params: ClassVar[type[LossParams]] = OpenLossParams
    api_version: ClassVar[int]
    """The version of this contract that the loss is written for. Declared in the class itself, never inherited."""
    semantics_version: ClassVar[int]
    """Increases when the loss computes different numbers."""
    reference: ClassVar[str] = ""
    """Paper and equation."""
    default_reduction: ClassVar[LossReduction] = "token_mean"
    """The paper's reduction; ``trainer.algorithm.loss_reduction`` overrides it."""
    ignores_advantages: ClassVar[bool] = False
    """True for a supervised loss; for any other, the conformance rules require that advantages affect the gradient."""

    params: Any = OpenLossParams()
    """An instance of ``Params``; empty if the class overrides ``__init__`` and keeps its parameters elsewhere."""

    def __init__(self, params: LossParams) -> None:
        self.params = params

    @classmethod
    def needs(cls, params: Any) -> frozenset[Need]:  # noqa: ARG003 - subclasses decide by their parameters
        """The inputs that the loss reads with these parameters; the trainer computes exactly these."""
        return frozenset({Need.OLD_LOG_PROBS})

    def prepare(self, minibatch: LossBatch) -> Prepared:  # noqa: ARG002 - most losses need nothing
        """Detached statistics of the minibatch of all ranks, computed once per optimizer step.

        It runs before the micro-batches. The result says which tensors are per token, per sequence and per minibatch;
        each ``token_losses`` call of the step gets its part as ``batch.prepared``.
        """
        return Prepared()

    @property
    def adapts(self) -> bool:
        """Whether the class overrides ``after_step``; if not, metrics need not be merged after each step."""
        return type(self).after_step is not PolicyLoss.after_step

    def after_step(self, metrics: Mapping[str, float]) -> None:  # noqa: B027 - most losses do nothing here
        """Adapt to what the loss logged in an optimizer step, merged over all micro-batches and ranks.

        Called once after each optimizer step, for losses that adapt a coefficient. ``metrics`` has every metric and
        every term under its name, the same numbers on all ranks. Anything changed here belongs in ``state_dict``.
        """

    def state_dict(self) -> dict[str, float]:
        """The numbers that ``after_step`` has changed, saved exactly, as JSON, with every checkpoint."""
        return {}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Resume from what ``state_dict`` returned, also after a schedule has changed the parameters.

        Raises:
            ValueError: the state belongs to another loss.
        """
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, but was given {', '.join(sorted(state))}")

    @classmethod
    def components(cls, params: Any) -> tuple[tuple[str, Mapping[str, Any]], ...]:  # noqa: ARG003 - for composed losses
        """The spec and parameters of each loss that this one combines; they are part of its identity."""
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
        """The scalar loss of one complete batch, for use without the trainer: [B, T] each, float32 or float64.

        Raises:
            ValueError: shapes or dtypes do not fit.
            MissingInputError: the caller did not pass an input that the loss declares.
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
            batch.prepared = prepared_by(self, batch).tensors
        weights = token_weights(
            mask,
            loss_reduction or self.default_reduction,
            count_batch(mask, groups),
            groups=groups,
            max_length=max_length,
            dtype=log_probs.dtype,
        )
        return weighted_sum(self.token_losses(batch).values, weights, mask)


def prepared_by(loss: PolicyLoss, minibatch: LossBatch) -> Prepared:
    """The result of the loss's ``prepare``, checked.

    Raises:
        ConformanceError: the loss returned something else, or a tensor's shape does not fit its declaration.
    """
    return checked_prepared(loss.prepare(minibatch), minibatch.mask, loss.name or type(loss).__name__)


def is_scalar_form(loss: type[PolicyLoss]) -> bool:
    """Whether the class overrides only ``compute_loss``, so that it can return nothing but a scalar."""
    return loss.token_losses is PolicyLoss.token_losses
