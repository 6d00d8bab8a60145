"""Metrics survive splitting: the merge of parts is the metric of the full batch."""

import math

import pytest
import torch

from skyrl_core.contract.metric import Metric, merge

VALUES = torch.tensor([[1.0, 4.0, float("nan")], [-2.0, float("inf"), 7.0]])
MASK = torch.tensor([[True, True, False], [True, False, True]])


def test_each_kind_by_hand_ignores_masked_tokens() -> None:
    assert Metric.mean(VALUES, MASK).result() == 2.5
    assert Metric.max(VALUES, MASK).result() == 7.0
    assert Metric.min(VALUES, MASK).result() == -2.0


def test_the_mean_of_a_bool_is_a_fraction() -> None:
    assert Metric.mean(torch.tensor([True, False, True, True]), torch.tensor([True, True, True, False])).result() == (
        pytest.approx(2 / 3)
    )


@pytest.mark.parametrize("kind", ["mean", "max", "min"])
def test_uneven_parts_merge_to_the_full_batch(kind: str) -> None:
    values = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(7) < torch.tensor([7, 1, 0, 3, 5]).unsqueeze(-1)
    make = getattr(Metric, kind)
    parts = [make(values[rows], mask[rows]) for rows in (slice(0, 1), slice(1, 3), slice(3, 5))]
    assert merge(parts).result() == pytest.approx(make(values, mask).result(), rel=1e-6)


@pytest.mark.parametrize("kind", ["mean", "max", "min"])
def test_a_part_without_tokens_changes_nothing_and_is_nan_by_itself(kind: str) -> None:
    make = getattr(Metric, kind)
    nothing = make(torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.bool))
    whole = make(VALUES, MASK)
    assert math.isnan(nothing.result())
    assert merge([nothing, whole, nothing]).result() == whole.result()


def test_a_metric_keeps_no_graph() -> None:
    values = torch.ones(2, requires_grad=True)
    metric = Metric.mean(values * 2, torch.tensor([True, True]))
    assert not metric.total.requires_grad


def test_kinds_do_not_mix() -> None:
    with pytest.raises(ValueError, match=r"\['max', 'mean'\]"):
        merge([Metric.mean(VALUES, MASK), Metric.max(VALUES, MASK)])


def test_no_metrics_cannot_be_merged() -> None:
    with pytest.raises(ValueError, match="cannot merge"):
        merge([])
