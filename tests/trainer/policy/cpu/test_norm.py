import copy

import pytest
import torch
from torch import nn
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from skyrl_train.policy.cpu.norm import FastNorm, use_fast_norm

EPSILON = 0.1  # large enough to matter


def formula(x, weight):
    """In float64."""
    return weight * x / (x.square().mean(-1, keepdim=True) + EPSILON).sqrt()


def norm(kind=LlamaRMSNorm, width=12):
    torch.manual_seed(0)
    made = kind(width, eps=EPSILON)
    nn.init.normal_(made.weight)
    use_fast_norm(made)
    return made


@pytest.mark.parametrize("kind", [LlamaRMSNorm, Qwen3RMSNorm])
@pytest.mark.parametrize("shape", [(12,), (5, 12), (2, 3, 4, 12), (0, 12)], ids=str)
def test_values_and_gradients_are_those_of_the_formula_in_float64(shape, kind):
    fast = norm(kind)
    assert isinstance(fast, FastNorm)
    assert isinstance(fast, kind)
    x, slope = torch.randn(shape, requires_grad=True), torch.randn(shape)
    exact = [tensor.detach().double().requires_grad_() for tensor in (x, fast.weight)]
    wanted, found = formula(*exact), fast(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)
    gradients = torch.autograd.grad(found, [x, fast.weight], slope)
    for got, expected in zip(gradients, torch.autograd.grad(wanted, exact, slope.double()), strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)


def test_zeros_have_finite_values_and_gradients():
    fast = norm()
    x = torch.zeros(2, 12, requires_grad=True)
    fast(x).sum().backward()
    torch.testing.assert_close(x.grad, (fast.weight / EPSILON**0.5).expand(2, 12).detach(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("frozen", ["weight", "input"])
def test_what_is_frozen_gets_no_gradient(frozen):
    fast = norm()
    fast.weight.requires_grad_(frozen != "weight")
    x = torch.randn(3, 12, requires_grad=frozen != "input")
    fast(x).sum().backward()
    assert (x.grad is None) == (frozen == "input")
    assert (fast.weight.grad is None) == (frozen == "weight")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_other_types_are_computed_by_the_model_s_own_class(dtype):
    fast = norm().to(dtype)
    own = LlamaRMSNorm(12, eps=EPSILON).to(dtype)
    own.load_state_dict(fast.state_dict())
    x = torch.randn(3, 12, dtype=dtype)
    torch.testing.assert_close(fast(x), own(x), rtol=0, atol=0)


def test_norms_that_compute_something_else_stay_what_they_are():
    class Shifted(LlamaRMSNorm):
        def forward(self, hidden_states):
            return super().forward(hidden_states) + 1

    assert type(norm(Shifted)) is Shifted
    assert type(norm(Gemma3RMSNorm)) is Gemma3RMSNorm


def test_a_norm_of_low_precision_stays_what_it_is_also_when_it_becomes_float32():
    own = LlamaRMSNorm(12, eps=EPSILON).bfloat16()
    use_fast_norm(own)
    assert type(own.float()) is LlamaRMSNorm


def test_a_copy_of_a_model_computes_with_its_own_weights():
    fast = norm()
    other, x = copy.deepcopy(fast), torch.randn(3, 12)
    nn.init.zeros_(fast.weight)
    assert not fast(x).any()
    assert other(x).any()
