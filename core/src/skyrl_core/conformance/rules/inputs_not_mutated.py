"""Rule ``inputs_not_mutated``: the loss writes into none of its inputs, not even to restore them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from skyrl_core.conformance.author_code import current_line
from skyrl_core.conformance.batches import ExampleBatch
from skyrl_core.conformance.loss_call import call_loss, declared_tensors, ready_batch
from skyrl_core.conformance.rule import Rule, Violation
from skyrl_core.conformance.trial import loss_batch
from skyrl_core.contract.policy_loss import PolicyLoss


def check_inputs_not_mutated(loss: PolicyLoss, batch: ExampleBatch) -> list[str]:
    """Watch every operation of ``prepare`` and of a call, and compare every input before and after."""
    params = loss.params.model_dump()
    minibatch = loss_batch(loss, batch.floats(Tensor.clone))
    with _Unchanged(declared_tensors(minibatch), batch):
        loss.prepare(minibatch)
    ready = ready_batch(loss, batch)
    prepared = {f"prepared[{name!r}]": tensor for name, tensor in ready.prepared.items()}
    with _Unchanged({**declared_tensors(ready), **prepared}, batch):
        call_loss(loss, ready)
    if loss.params.model_dump() != params:
        raise Violation(f"the parameters were {params} before the calls and are {loss.params.model_dump()} after")
    return []


class _Unchanged(TorchDispatchMode):
    """Raises a violation if one of the tensors is written to inside."""

    def __init__(self, tensors: Mapping[str, Tensor], batch: ExampleBatch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch does not annotate it
        self.batch, self.tensors = batch, tensors
        self.before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        self.names = {_memory(tensor): name for name, tensor in tensors.items() if tensor.numel()}
        self.written: str | None = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        for argument, value in zip(func._schema.arguments, args, strict=False):
            self._note(argument, value)
        for argument in func._schema.arguments:
            if argument.name in kwargs:
                self._note(argument, kwargs[argument.name])
        return func(*args, **kwargs)

    def _note(self, argument: Any, value: Any) -> None:
        if argument.alias_info is None or not argument.alias_info.is_write:
            return
        for tensor in tree_leaves(value):
            name = self.names.get(_memory(tensor)) if isinstance(tensor, Tensor) else None
            if name and self.written is None:
                self.written = f"{current_line()} writes into {name}"

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]  # torch does not annotate it
        if error[0] is not None:
            return
        for name, tensor in self.tensors.items():
            before, after = self.before[name], tensor.detach()
            if not torch.equal(before, after):  # NumPy writes without an operation of torch
                at = (before != after).nonzero()[0].tolist()
                found = f"{name}{at} was {before[tuple(at)]:.6g} before the call and is {after[tuple(at)]:.6g} after"
                raise Violation(f"{found}: {self.written}" if self.written else found, batch=self.batch)
        if self.written:
            raise Violation(f"{self.written}, and restores its values", batch=self.batch)


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


INPUTS_NOT_MUTATED = Rule(
    name="inputs_not_mutated",
    explanation="the loss writes into none of its inputs, not even to restore them",
    remedy="replace the in-place operation (x += y, x.clamp_(), x[mask] = 0) with one that returns a new tensor",
    counterexample="advantages.mul_(2); groups += 1; batch.prepared['weights'].neg_()",
    check=check_inputs_not_mutated,
    gate=True,
)
