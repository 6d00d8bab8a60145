"""Rule ``long_sequences``: memory grows in proportion to the length, and 32,768 tokens give an exact loss."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from skyrl_core.conformance.author_code import current_line
from skyrl_core.conformance.batches import ExampleBatch, long_batch
from skyrl_core.conformance.loss_call import result_dtype
from skyrl_core.conformance.rule import Rule, Violation
from skyrl_core.conformance.trial import run
from skyrl_core.contract.policy_loss import PolicyLoss

LONG, SHORT = 32768, 256
# float32 against float64. A float32 sum of so many terms has an error of about 1e-5.
TOLERANCE = 1e-3


def check_long_sequences(loss: PolicyLoss, batch: ExampleBatch) -> list[str]:  # noqa: ARG001 - it is too short
    """Measure how the work grows with the length, then evaluate a long sequence in float32 and in float64."""
    short, double = _Work(loss, SHORT), _Work(loss, 2 * SHORT)
    if double.largest > max(3 * short.largest, SHORT**2):
        gib = 4 * double.largest * (LONG / (2 * SHORT)) ** 2 / 2**30
        raise Violation(
            f"{double.where} makes a tensor {double.shape} for {2 * SHORT} tokens: {gib:.3g} GiB for {LONG:,} tokens"
        )
    if double.operations > 1.5 * short.operations:
        return [
            f"a sequence of {2 * SHORT} tokens takes {double.operations} operations, one of {SHORT} tokens "
            f"{short.operations}: a loop over tokens is slow; look for a cumulative sum or a shift"
        ]
    long = long_batch(LONG)
    single = run(loss, long)
    if not single.is_finite:
        raise Violation(f"for {LONG:,} tokens the loss is {float(single.total):g}, or a gradient is not finite")
    if result_dtype(loss, long_batch(2).to(torch.float64)) != torch.float64:
        return []  # precision reports it
    if difference := run(loss, long.to(torch.float64)).difference(single, TOLERANCE):
        raise Violation(f"for {LONG:,} tokens, in float32 instead of float64, {difference}")
    return []


class _Work(TorchDispatchMode):
    """The number of operations of one evaluation, value and gradient, and the largest tensor that they make."""

    def __init__(self, loss: PolicyLoss, width: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch does not annotate it
        self.operations, self.largest, self.shape, self.where = 0, 0, list[int](), ""
        batch = long_batch(width)
        with self:
            run(loss, batch)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.operations += 1
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.numel() > self.largest:
                self.largest, self.shape, self.where = tensor.numel(), list(tensor.shape), current_line()
        return result


LONG_SEQUENCES = Rule(
    name="long_sequences",
    explanation="memory grows in proportion to the length, and one sequence of 32,768 tokens gives an exact loss",
    remedy="compute with cumulative sums instead of a matrix of tokens by tokens; sum logarithms instead of "
    "multiplying ratios; count positions in int64 or float32",
    counterexample="a decay from every token to every later one, [T, T]; a table of 4,096 positions",
    check=check_long_sequences,
    quick=False,
)
