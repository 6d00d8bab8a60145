"""What ``prepare`` returns is split as its author declares, whatever the sizes."""

import pytest
import torch

from skyrl_core.contract.policy_loss import LossBatch, PolicyLoss, prepared_by
from skyrl_core.contract.prepared import Prepared, checked_prepared
from skyrl_core.errors import ConformanceError
from skyrl_core.parameters.loss_params import OpenLossParams

SQUARE = torch.ones(3, 3, dtype=torch.bool)
WIDE = torch.ones(3, 4, dtype=torch.bool)


def test_each_kind_is_split_as_declared_although_all_sizes_are_equal() -> None:
    table = torch.arange(9.0).reshape(3, 3)
    prepared = Prepared(
        per_token={"token": table},
        per_sequence={"sequence": table[0], "vector": table},
        per_minibatch={"number": torch.tensor(2.0), "position": table[1], "pair": table},
    )
    part = prepared.part(torch.tensor([2, 0]), 2)
    assert part["token"].tolist() == [[6, 7], [0, 1]]
    assert part["sequence"].tolist() == [2, 0]
    assert part["vector"].tolist() == [[6, 7, 8], [0, 1, 2]]  # its columns are not tokens
    assert part["number"] == 2.0
    assert part["position"].tolist() == [3, 4, 5]
    assert part["pair"].tolist() == table.tolist()


class Prepares(PolicyLoss):
    name = "prepares"

    def __init__(self, result: object) -> None:
        super().__init__(OpenLossParams())
        self.result = result

    def prepare(self, minibatch: LossBatch) -> Prepared:
        return self.result  # type: ignore[return-value]  # wrong on purpose


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"mean": torch.zeros(())}, r"returned dict: return Prepared\(per_token="),
        (None, "returned NoneType: return Prepared"),
        (
            Prepared(per_token={"x": torch.zeros(3)}),
            r"'x' as per_token, and its shape is \[3\] .* of \[3, 4\]",
        ),
        (Prepared(per_token={"x": torch.zeros(4, 3)}), r"must start with \[3, 4\]"),
        (Prepared(per_sequence={"x": torch.zeros(4)}), r"'x' as per_sequence, .* must start with \[3\]"),
        (Prepared(per_sequence={"x": torch.zeros(())}), r"must start with \[3\]"),
        (Prepared(per_minibatch={"x": 0.5}), "returned float as 'x': return a tensor"),
        (Prepared(per_token={"x": torch.zeros(3, 4)}, per_minibatch={"x": torch.zeros(2)}), "two tensors named 'x'"),
    ],
)
def test_a_result_that_does_not_fit_its_declaration_is_refused_with_the_name_of_the_loss(result, message) -> None:
    minibatch = LossBatch(log_probs=torch.zeros(3, 4), advantages=torch.zeros(3, 4), mask=WIDE)
    with pytest.raises(ConformanceError, match=f"prepare of the loss prepares .*{message}"):
        prepared_by(Prepares(result), minibatch)


@pytest.mark.parametrize("shape", [(), (3,), (5,), (3, 3), (0,)])
def test_a_tensor_of_the_minibatch_has_any_shape(shape) -> None:
    prepared = Prepared(per_minibatch={"x": torch.zeros(shape)})
    assert checked_prepared(prepared, SQUARE, "any").part(torch.tensor([1]), 1)["x"].shape == shape


def test_names_of_several_losses_are_kept_apart_by_their_labels() -> None:
    one = Prepared(per_token={"x": torch.zeros(3, 3)}).under("a")
    both = one.merged(Prepared(per_sequence={"x": torch.ones(3)}).under("b"))
    assert {name: tensor.shape for name, tensor in both.tensors.items()} == {"a/x": (3, 3), "b/x": (3,)}
    assert both.part(torch.tensor([0]), 2)["a/x"].shape == (1, 2)
