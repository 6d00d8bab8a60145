"""Rule ``no_host_sync``: token_losses never waits for the device, which would stall the queue of kernels on a GPU."""

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from skyrl_core.conformance.author_code import current_line
from skyrl_core.conformance.batches import ExampleBatch
from skyrl_core.conformance.loss_call import call_loss, ready_batch
from skyrl_core.conformance.rule import Rule
from skyrl_core.contract.policy_loss import PolicyLoss

# Calls that copy to the host, by the name that the author wrote; on the CPU most of them never reach the dispatcher.
_COPIES = {"item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__", "__array__"}
# Operations whose result has a size that only the device knows.
_SIZES = {"aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::unique_dim"}


def check_no_host_sync(loss: PolicyLoss, batch: ExampleBatch) -> list[str]:
    """Leave a note for each wait: the loss is slow, not wrong. ``prepare`` may wait, because it runs once per step."""
    ready = ready_batch(loss, batch)
    found: dict[str, None] = {}
    with _Copies(found), _Sizes(found):
        call_loss(loss, ready)
    return [f"{where}: on a GPU this waits for the device, once per micro-batch" for where in found]


class _Copies(TorchFunctionMode):
    def __init__(self, found: dict[str, None]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in _COPIES:
            self.found[f"{current_line()}, calls {name.strip('_')}()"] = None
        return func(*args, **(kwargs or {}))


class _Sizes(TorchDispatchMode):
    def __init__(self, found: dict[str, None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch does not annotate it
        self.found = found

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.name().partition(".")[0]
        by_mask = name == "aten::index" and any(t is not None and t.dtype == torch.bool for t in args[1])
        if name in _SIZES or by_mask:
            action = "indexes with a mask" if by_mask else f"calls {name.removeprefix('aten::').strip('_')}()"
            self.found[f"{current_line()}, {action}"] = None
        return func(*args, **(kwargs or {}))


NO_HOST_SYNC = Rule(
    name="no_host_sync",
    explanation="token_losses never waits for the device (a note, never a failure)",
    remedy="keep numbers in tensors: use torch.where instead of if, masked sums instead of x[mask], a Metric instead "
    "of item()",
    counterexample="if ratio.max() > 10; losses[mask].mean(); logging loss.item()",
    check=check_no_host_sync,
    quick=False,
)
