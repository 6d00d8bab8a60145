"""Divergences over two outcomes, against the textbook formula."""

import math

import pytest
import torch

from skyrl_core.maths.binary_divergence import binary_kl, probability_change

PROBABILITIES = [1e-9, 0.01, 0.3, 0.5, 0.9, 0.999, 1 - 1e-6]


def logs(values: list[float], dtype=torch.float64) -> torch.Tensor:
    return torch.tensor([math.log(value) for value in values], dtype=dtype)


@pytest.mark.parametrize("p", PROBABILITIES)
@pytest.mark.parametrize("q", PROBABILITIES)
def test_binary_kl_is_the_textbook_formula(p: float, q: float) -> None:
    expected = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert binary_kl(logs([p]), logs([q])).item() == pytest.approx(expected, rel=1e-9, abs=1e-13)


def test_binary_kl_by_hand() -> None:
    # p = 1/2, q = 1/4: log(2) / 2 + log(2/3) / 2
    assert binary_kl(logs([0.5]), logs([0.25])).item() == pytest.approx(0.5 * math.log(4 / 3), abs=1e-14)


def test_binary_kl_keeps_the_digits_of_probabilities_near_one_in_float32() -> None:
    p, q = torch.tensor([-1e-6]), torch.tensor([-3e-6])
    exact = binary_kl(p.double(), q.double()).item()
    assert exact > 0
    assert binary_kl(p, q).item() == pytest.approx(exact, rel=0.1, abs=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_certain_impossible_and_broken_log_probs_are_finite(dtype: torch.dtype) -> None:
    values = torch.tensor([0.0, -1e-9, -1.0, -200.0, -1000.0, 50.0], dtype=dtype)
    assert binary_kl(values.unsqueeze(0), values.unsqueeze(1)).isfinite().all()
    assert probability_change(values.unsqueeze(0), values.unsqueeze(1)).abs().max() == 1.0


def test_probability_change_by_hand() -> None:
    assert probability_change(logs([0.5, 0.1]), logs([0.2, 0.4])).tolist() == pytest.approx([0.3, -0.3])
