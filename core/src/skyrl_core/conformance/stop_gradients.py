"""Holds detached quantities constant, so that a gradient can be compared with finite differences.

The gradient of a loss such as CISPO is not the derivative of its value, because the weight is detached on purpose. With
every detached quantity held at its recorded value, the rest is a function whose derivative autograd must give.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_SCALARS = (bool, int, float)


class StopGradients(TorchFunctionMode):
    """Records every value that leaves the autograd graph, or replays a record.

    Such values are the results of detach(), of comparisons and of argmax, numbers from item(), and results computed
    under no_grad() that are used with gradient later. The forward of an autograd.Function also runs without gradient,
    but its result carries one: it is recomputed, as it should be.
    """

    def __init__(self, record: list[Any] | None = None) -> None:
        """Replay the record, or make one if none is given."""
        super().__init__()
        self.record: list[Any] = [] if record is None else record
        self._replays = record is not None
        self._position = 0
        # Results computed from an input under no_grad, by id. They are kept alive, so that no id is reused.
        self._without_gradient: dict[int, Tensor] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the function; hold its result if it depends on an input and carries no gradient."""
        kwargs = kwargs or {}
        if not torch.is_grad_enabled():
            result = func(*args, **kwargs)
            if self._depends(args) or self._depends(tuple(kwargs.values())):
                self._without_gradient |= {id(tensor): tensor for tensor in _tensors(result)}
            return self._held(result) if isinstance(result, _SCALARS) else result
        args, kwargs = self._with_constants(args), self._with_constants(kwargs)
        depends = any(tensor.requires_grad for tensor in (*_tensors(args), *_tensors(kwargs)))
        result = func(*args, **kwargs)
        leaves = isinstance(result, (Tensor, *_SCALARS)) and not getattr(result, "requires_grad", False)
        return self._held(result) if depends and leaves else result

    def _depends(self, values: Any) -> bool:
        return any(tensor.requires_grad or id(tensor) in self._without_gradient for tensor in _tensors(values))

    def _with_constants(self, values: Any) -> Any:
        if isinstance(values, Tensor):
            return self._held(values) if id(values) in self._without_gradient and not values.requires_grad else values
        if type(values) in (tuple, list):
            return type(values)(self._with_constants(value) for value in values)
        if isinstance(values, dict):
            return {key: self._with_constants(value) for key, value in values.items()}
        return values

    def _held(self, value: Any) -> Any:
        if not self._replays:
            self.record.append(value.detach().clone() if isinstance(value, Tensor) else value)
            return value
        self._position += 1
        return self.record[self._position - 1]


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, dict):
        values = tuple(values.values())
    if isinstance(values, (tuple, list)):
        return [tensor for value in values for tensor in _tensors(value)]
    return []
