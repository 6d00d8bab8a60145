"""The batch of an estimator rejects tensors that would silently broadcast or propagate."""

import pytest
import torch

from skyrl_core.contract.advantage_estimator import AdvantageBatch, AdvantageEstimator

REWARDS = torch.tensor([1.0, 0.0, 0.5])
GROUPS = torch.tensor([0, 0, 1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rewards": torch.tensor([1, 0, 1])}, r"rewards must be float \[N\], got torch.int64 \[3\]"),
        ({"rewards": REWARDS.unsqueeze(-1)}, r"rewards must be float \[N\], got torch.float32 \[3, 1\]"),
        ({"groups": torch.tensor([0, 1])}, r"groups must be int64 \[3\] like rewards, got torch.int64 \[2\]"),
        ({"groups": torch.tensor([0.0, 0.0, 1.0])}, "got torch.float32"),
        ({"groups": torch.tensor([0, -1, 1])}, "numbered from 0, got -1"),
        ({"mask": torch.ones(3, 4)}, r"mask must be bool \[3, T\], got torch.float32"),
        ({"mask": torch.ones(2, 4, dtype=torch.bool)}, r"got torch.bool \[2, 4\]"),
        ({"rewards": torch.tensor([1.0, float("nan"), 0.0])}, "reward of sample 1 is nan"),
        ({"rewards": torch.tensor([1.0, 0.0, float("inf")])}, "reward of sample 2 is inf"),
    ],
)
def test_an_invalid_batch_is_an_error_with_the_reason(change: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdvantageBatch(**{"rewards": REWARDS, "groups": GROUPS, **change})


def test_a_batch_with_a_mask_is_accepted() -> None:
    assert AdvantageBatch(REWARDS, GROUPS, torch.ones(3, 4, dtype=torch.bool)).mask is not None


def test_an_estimator_without_estimate_cannot_be_made() -> None:
    class Nothing(AdvantageEstimator):
        pass

    with pytest.raises(TypeError, match="estimate"):
        Nothing(Nothing.Params())
