"""Imitates a second device on the CPU, so that a loss that mixes devices fails without a GPU.

A tensor of the imitated device reports the device ``meta`` but holds values in memory, so that branches on values, in
``prepare`` for instance, work. Mixing it with a CPU tensor is an error, as on a GPU.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from skyrl_core.conformance.batches import ExampleBatch

_DEVICE, _CPU = torch.device("meta"), torch.device("cpu")
_INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}


class MixedDevicesError(Exception):
    """One operation got tensors of two devices."""


class OtherDeviceTensor(Tensor):
    """A tensor on the imitated device."""

    def __new__(cls, values: Tensor) -> "OtherDeviceTensor":
        """Wrap a CPU tensor, which is not copied."""
        wrapper: OtherDeviceTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            values.shape,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=_DEVICE,
        )
        return wrapper

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values_on_cpu = values

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # as torch documents

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch gives the signature of a function of a mode
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operation on the values."""
        return _run(func, args, kwargs or {})


@contextmanager
def other_device() -> Iterator[None]:
    """Create and combine tensors of the imitated device inside as a GPU would.

    Raises:
        MixedDevicesError: inside, an operation got tensors of two devices.
    """
    with _Functions(), _Operations():  # type: ignore[no-untyped-call]  # of torch
        yield


class _Functions(TorchFunctionMode):
    """Handles the functions that do not reach ``_Operations``."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        if func in (Tensor.numpy, Tensor.__array__) and isinstance(args[0], OtherDeviceTensor):
            raise MixedDevicesError(f"{func.__name__.strip('_')}() needs a tensor on the CPU")
        return func(*on_cpu(args)) if func is Tensor.tolist else func(*args, **kwargs)


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _run(func, args, kwargs or {})


def moved(batch: ExampleBatch) -> ExampleBatch:
    """Move every tensor of the batch to the imitated device."""
    tensors = {field.name: OtherDeviceTensor(getattr(batch, field.name).clone()) for field in fields(batch)}
    return replace(batch, **tensors)


def on_cpu(value: Any) -> Any:
    """Move every tensor in a nested structure back to the CPU."""
    return tree_map_only(OtherDeviceTensor, lambda tensor: tensor.values_on_cpu, value)


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    name = func.name().partition(".")[0]
    tensors = _tensors((args, kwargs))
    is_there = any(isinstance(tensor, OtherDeviceTensor) for tensor in tensors)
    if is_there and name != "aten::copy_":
        # The indices of a GPU tensor may be on the CPU.
        own = (
            _tensors((args[0], *args[2:])) if name in _INDEXING and isinstance(args[0], OtherDeviceTensor) else tensors
        )
        # So may a number, in a tensor without dimensions.
        strange = [tensor for tensor in own if tensor.ndim and not isinstance(tensor, OtherDeviceTensor)]
        if strange:
            raise MixedDevicesError(f"{name.removeprefix('aten::')} got a tensor {list(strange[0].shape)} on the CPU")
    device = kwargs.get("device")
    if device is not None:
        is_there, kwargs = torch.device(device).type == _DEVICE.type, {**kwargs, "device": _CPU}
    result = func(*on_cpu(args), **on_cpu(kwargs))
    return tree_map_only(Tensor, OtherDeviceTensor, result) if is_there else result


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
