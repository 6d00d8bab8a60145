"""Rules about how a loss meets its caller: what it declares, reads, returns and leaves alone."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from skyrl_core.conformance.batches import ExampleBatch
from skyrl_core.conformance.rules.rule import Rule, Violation
from skyrl_core.conformance.trial import loss_batch, needs_of, prepare
from skyrl_core.contract.loss_value import scalar_loss
from skyrl_core.contract.metric import TRAINERS_OWN, Metric
from skyrl_core.contract.policy_loss import LOSS_API_VERSION, LossBatch, Need, PolicyLoss, TokenLosses, is_scalar_form
from skyrl_core.errors import UndeclaredInputError
from skyrl_core.parameters.loss_params import LossParams

_ONE_EACH = "return the unreduced loss of every token: the trainer masks, weights and sums"
_ONE = "return one number and nothing else, such as masked_mean(losses, masks)"


def check_signature(loss: PolicyLoss, batch: ExampleBatch) -> list[str]:
    """Class attributes, needs, and a first call."""
    if is_scalar_form(type(loss)):
        if type(loss).compute_loss is PolicyLoss.compute_loss:
            raise Violation(f"{type(loss).__name__} overrides neither token_losses nor compute_loss")
    else:
        _check_attributes(loss)
    needs = loss.needs(loss.params)
    if not isinstance(needs, (set, frozenset)) or not all(isinstance(need, Need) for need in needs):
        raise Violation(f"needs(params) returned {needs!r}", remedy="return a frozenset of Need members")
    try:
        evaluate(loss, ready_batch(loss, batch))
    except UndeclaredInputError:
        return []  # the business of declared_needs
    except Exception as error:
        if not is_scalar_form(type(loss)):
            raise
        # A scalar loss that misses an input fails in a way of its own. If all inputs help, that is what it missed.
        try:
            evaluate(loss, ready_batch(loss, batch, frozenset(Need)))
        except Exception:  # noqa: BLE001 - then inputs are not what it missed
            raise error from None
    return []


def _check_attributes(loss: PolicyLoss) -> None:
    cls = type(loss)
    for name in ("name", "Params", "api_version", "semantics_version"):
        if name not in vars(cls):
            raise Violation(f"class {cls.__name__} does not declare `{name}` itself")
    if cls.api_version != LOSS_API_VERSION:
        raise Violation(
            f"api_version is {cls.api_version!r}; this skyrl-core has version {LOSS_API_VERSION} of the contract",
            remedy="install the version of skyrl-core that the loss is written for, or port the loss",
        )
    if not isinstance(cls.semantics_version, int) or not cls.name:
        raise Violation(f"name is {cls.name!r}, semantics_version is {cls.semantics_version!r}")
    if not (isinstance(cls.Params, type) and issubclass(cls.Params, LossParams)):
        raise Violation(f"Params is {cls.Params!r}", remedy="make Params a subclass of LossParams")
    if not isinstance(loss.params, cls.Params):
        raise Violation(
            f"loss.params is a {type(loss.params).__name__}, not a {cls.Params.__name__}",
            remedy="pass the params on: super().__init__(params)",
        )


def check_declared_needs(loss: PolicyLoss, batch: ExampleBatch) -> list[str]:
    """Everything declared is read, and nothing else."""
    declared = needs_of(loss)
    if is_scalar_form(type(loss)):
        return _check_scalar_needs(loss, batch, declared)
    whole, micro = loss_batch(loss, batch), loss_batch(loss, batch)
    try:
        micro.prepared = loss.prepare(whole)
        loss.token_losses(micro)
    except UndeclaredInputError as error:
        raise Violation(str(error)) from error
    unread = declared - whole.read - micro.read
    if unread:
        raise Violation(
            f"{_names(unread)} declared in needs, never read",
            remedy=f"remove {_names(unread)} from needs: each need costs a forward pass or memory",
        )
    return []


def _check_scalar_needs(loss: PolicyLoss, batch: ExampleBatch, declared: frozenset[Need]) -> list[str]:
    try:
        expected: Any = scalar_loss(loss, loss_batch(loss, batch))
    except Exception as error:
        raise Violation(
            f"compute_loss raised {type(error).__name__}: {error} with {_names(declared)}, and not with every input"
        ) from error
    if not isinstance(expected, Tensor):
        return []  # the business of shape_dtype
    # What a scalar loss reads cannot be watched, only what changes its value. A note, because nobody asked its author.
    changed = {need: replace(batch, **{need.value: getattr(batch, need.value).roll(1, 0)}) for need in declared}
    without = {n for n, other in changed.items() if torch.equal(expected, scalar_loss(loss, loss_batch(loss, other)))}
    if without:
        return [f"{_names(frozenset(without))} declared in needs, without effect: each need costs time or memory"]
    return []


def check_shape_dtype(loss: PolicyLoss, batch: ExampleBatch) -> list[str]:
    """[B, T] or a scalar, in the dtype of the input, finite, and with a gradient."""
    ready = ready_batch(loss, batch)
    for name, tensor in ready.prepared.items():
        if not isinstance(tensor, Tensor) or tensor.requires_grad:
            raise Violation(f"prepare returned {name} = {_kind(tensor)}", remedy="return detached tensors from prepare")
    output = evaluate(loss, ready)
    if is_scalar_form(type(loss)):
        _check_tensor("compute_loss returned", output, ready.log_probs, ())
    elif not isinstance(output, TokenLosses):
        raise Violation(f"token_losses returned {_kind(output)}", remedy="return TokenLosses(values=...)")
    else:
        _check_tensor("values is", output.values, ready.log_probs, tuple(ready.mask.shape))
        _check_log(output, batch.mask)
    return []


def _check_log(output: TokenLosses, mask: Tensor) -> None:
    for name, term in output.terms.items():
        if not isinstance(term, Tensor) or term.shape != mask.shape:
            raise Violation(f"terms[{name!r}] is {_kind(term)}, expected {list(mask.shape)}")
    for name, metric in output.metrics.items():
        if not isinstance(metric, Metric):
            raise Violation(f"metrics[{name!r}] is {_kind(metric)}", remedy="use Metric.mean(values, batch.mask)")
        if name in TRAINERS_OWN:
            raise Violation(f"metrics[{name!r}] has a name of what the trainer logs itself", remedy="rename it")


def _check_tensor(what: str, values: Any, log_probs: Tensor, shape: tuple[int, ...]) -> None:
    if not isinstance(values, Tensor) or tuple(values.shape) != shape:
        raise Violation(
            f"{what} {_kind(values)}, expected a tensor of shape {list(shape)}", remedy=_ONE_EACH if shape else _ONE
        )
    if values.dtype != log_probs.dtype:
        raise Violation(f"{what} {values.dtype}, expected {log_probs.dtype}", remedy="keep the dtype of log_probs")
    if not values.isfinite().all():
        raise Violation(
            f"{what} not finite on an ordinary batch", remedy="look for a division by 0, log(0) or inf - inf"
        )
    reaches = values.requires_grad and torch.autograd.grad(values.sum(), log_probs, allow_unused=True)[0] is not None
    if not reaches:
        raise Violation(
            f"{what} {_kind(values)} without a gradient to log_probs",
            remedy="compute it from batch.log_probs without detach(), no_grad(), item() or numpy",
        )


def ready_batch(loss: PolicyLoss, batch: ExampleBatch, needs: frozenset[Need] | None = None) -> LossBatch:
    """The example as ``token_losses`` sees it, every float requiring grad, with what ``prepare`` returned."""
    own = replace(batch, mask=batch.mask.clone(), groups=batch.groups.clone())
    ready = loss_batch(loss, own.floats(lambda tensor: tensor.detach().clone().requires_grad_()), needs)
    ready.prepared = loss.prepare(loss_batch(loss, batch, needs)) if needs else prepare(loss, batch)
    return ready


def evaluate(loss: PolicyLoss, batch: LossBatch) -> Any:
    """What the loss returns, in either form."""
    return scalar_loss(loss, batch) if is_scalar_form(type(loss)) else loss.token_losses(batch)


def result_dtype(loss: PolicyLoss, batch: ExampleBatch) -> torch.dtype:
    """The dtype of what the loss returns for this batch."""
    output = evaluate(loss, ready_batch(loss, batch))
    dtype: torch.dtype = (output.values if isinstance(output, TokenLosses) else output).dtype
    return dtype


def _names(needs: frozenset[Need]) -> str:
    return ", ".join(f"Need.{need.name}" for need in sorted(needs)) or "no Need"


def _kind(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


SIGNATURE = Rule(
    name="signature",
    explanation="the class declares what it is, and can be called with what it asked for",
    remedy="declare name, Params, api_version = 1 and semantics_version = 1 in the class body, and override "
    "token_losses(batch) or compute_loss(log_probs, old_log_probs, advantages, masks, **kwargs)",
    breaks="a class without api_version of its own; needs that returns a list; an exception in the first call",
    check=check_signature,
    gate=True,
)
DECLARED_NEEDS = Rule(
    name="declared_needs",
    explanation="the loss reads the inputs that it declares in `needs`, and no others",
    remedy="return from needs(params) exactly the inputs that the loss reads",
    breaks="batch.entropy read and not declared; Need.REF_LOG_PROBS declared and never read",
    check=check_declared_needs,
    gate=True,
)
SHAPE_DTYPE = Rule(
    name="shape_dtype",
    explanation="one loss for every token, [B, T] (scalar form: one number), float32, finite, with a gradient",
    remedy=_ONE_EACH,
    breaks="losses.mean() in token_losses; (loss, metrics) from compute_loss; log_probs.detach()",
    check=check_shape_dtype,
    gate=True,
)
