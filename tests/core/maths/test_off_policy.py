"""Off-policy corrections by hand: ratios of powers of two, so that every number can be checked by hand."""

import math

import pytest
import torch

from skyrl_core.maths.off_policy import OffPolicyCorrection, correction_metrics, mismatch_metrics

F64 = torch.float64
MASK = torch.tensor([[True, True, True], [True, False, True]])
# Ratios old / rollout: 1/2, 4, 1 and 4, masked, 4.
RATIOS = torch.tensor([[0.5, 4.0, 1.0], [4.0, torch.nan, 4.0]], dtype=F64)


def factors(**settings: object) -> list[list[float]]:
    rollout = torch.full(RATIOS.shape, -3.0, dtype=F64)
    old = rollout + RATIOS.log()
    return OffPolicyCorrection(**settings).factors(old, rollout, MASK).tolist()


def test_without_a_correction_every_token_counts_once_and_masked_ones_never() -> None:
    assert factors() == [[1, 1, 1], [1, 0, 1]]
    assert not OffPolicyCorrection().active


def test_token_weights_are_truncated_at_both_ends() -> None:
    assert factors(weight="token", high=2.0) == [[pytest.approx(0.5), 2, 1], [2, 0, 2]]
    assert factors(weight="token", low=0.8, high=2.0)[0] == [0.8, 2, 1]


def test_masked_importance_sampling_keeps_the_weight_inside_and_drops_the_rest() -> None:
    assert factors(weight="token", outside="mask", low=0.25, high=2.0) == [[pytest.approx(0.5), 0, 1], [0, 0, 0]]


def test_sequence_weights_are_products() -> None:
    # 1/2 · 4 · 1 = 2 and 4 · 4 = 16
    assert factors(weight="sequence", high=20.0) == [[pytest.approx(2)] * 3, [pytest.approx(16), 0, pytest.approx(16)]]
    assert factors(weight="sequence", high=5.0)[1] == [5, 0, 5]


def test_geometric_weights_do_not_grow_with_the_length() -> None:
    # the cube root of 2, and 4
    expected = [[pytest.approx(2 ** (1 / 3))] * 3, [pytest.approx(4), 0, pytest.approx(4)]]
    assert factors(weight="geometric", high=10.0) == expected


@pytest.mark.parametrize(
    ("band", "low", "high", "kept"),
    [
        ("product", 0.5, 2.5, [1, 0]),
        ("product", 0.5, 20.0, [1, 1]),
        ("geometric", 0.9, 1.5, [1, 0]),
        ("geometric", 1.3, 5.0, [0, 1]),
        ("token", 0.4, 4.5, [1, 1]),
        ("token", 0.6, 4.5, [0, 1]),  # the token of 1/2 drops its sequence
    ],
)
def test_a_band_drops_entire_sequences(band: str, low: float, high: float, kept: list[int]) -> None:
    result = factors(band=band, band_low=low, band_high=high)
    assert [row[0] for row in result] == kept
    assert result[1][1] == 0


def test_band_and_weight_combine() -> None:
    assert factors(weight="token", high=8.0, band="product", band_low=0.5, band_high=2.5)[1] == [0, 0, 0]


def test_no_gradient_and_no_overflow() -> None:
    old = torch.tensor([[800.0, -800.0]], dtype=torch.float32, requires_grad=True)
    result = OffPolicyCorrection(weight="sequence", high=1e6).factors(old, torch.zeros(1, 2), torch.ones(1, 2).bool())
    assert result.isfinite().all()
    assert not result.requires_grad


def test_metrics_measure_the_mismatch_and_the_kept_share() -> None:
    rollout = torch.full(RATIOS.shape, -3.0)
    old = (rollout + RATIOS.log()).to(torch.float32)
    metrics = mismatch_metrics(torch.where(MASK, old, 0.0), rollout, MASK)
    # KL(mu || pi_old) by k3: exp(d) - 1 - d with d = log(pi_old / mu), mean over the five tokens
    expected = sum(r - 1 - math.log(r) for r in (0.5, 4, 1, 4, 4)) / 5
    assert metrics["mismatch_kl"].result() == pytest.approx(expected, rel=1e-6)
    assert metrics["mismatch_ratio_max"].result() == pytest.approx(4)
    corrected = correction_metrics(torch.tensor([[0.5, 0.0, 1.0], [2.0, 9.0, 0.0]]), MASK)
    assert corrected["correction_mean"].result() == pytest.approx(3.5 / 5)
    assert corrected["correction_kept"].result() == pytest.approx(3 / 5)
    assert corrected["correction_max"].result() == 2
