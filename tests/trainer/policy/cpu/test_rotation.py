import pytest
import torch
from transformers.models.cohere import modeling_cohere
from transformers.models.qwen2 import modeling_qwen2

from skyrl_train.policy.cpu.rotation import FastRotation, use_fast_rotation

TRANSFORMERS = getattr(modeling_qwen2.apply_rotary_pos_emb, "original", modeling_qwen2.apply_rotary_pos_emb)


def inputs(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 6, 5, 8), (2, 3, 5, 8), (2, 5, 8), (2, 5, 8)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def rotated_by_pairs(x, cos, sin):
    """Element by element, in float64."""
    half, y = x.shape[-1] // 2, torch.empty_like(x)
    for number in range(half):
        first, second = x[..., number], x[..., number + half]
        y[..., number] = first * cos[:, None, :, number] - second * sin[:, None, :, number]
        y[..., number + half] = second * cos[:, None, :, number + half] + first * sin[:, None, :, number + half]
    return y


def test_values_and_gradients_are_those_of_the_formula_in_float64():
    q, k, cos, sin = inputs()
    for tensors in ((q, k), (q.transpose(1, 2).contiguous().transpose(1, 2), k)):  # as a layer has them, too
        leaves = [tensor.detach().requires_grad_() for tensor in tensors]
        exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
        found = FastRotation(TRANSFORMERS)(*leaves, cos, sin)
        wanted = [rotated_by_pairs(x, cos.double(), sin.double()) for x in exact]
        generator = torch.Generator().manual_seed(1)
        slopes = [torch.randn(tensor.shape, generator=generator) for tensor in tensors]
        gradients = torch.autograd.grad(found, leaves, slopes)
        expected = torch.autograd.grad(wanted, exact, [slope.double() for slope in slopes])
        for got, right in zip((*found, *gradients), (*wanted, *expected), strict=True):
            torch.testing.assert_close(got.double(), right, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_other_types_and_settings_are_left_to_transformers(dtype):
    q, k, cos, sin = inputs(dtype)
    fast = FastRotation(TRANSFORMERS)
    for found, wanted in zip(fast(q, k, cos, sin), TRANSFORMERS(q, k, cos, sin), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    q, k, cos, sin = (*(tensor.transpose(1, 2) for tensor in inputs()[:2]), *inputs()[2:])
    for found, wanted in zip(
        fast(q, k, cos, sin, unsqueeze_dim=2), TRANSFORMERS(q, k, cos, sin, unsqueeze_dim=2), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_it_takes_the_place_of_the_function_once(model_of, monkeypatch):
    monkeypatch.setattr(modeling_qwen2, "apply_rotary_pos_emb", TRANSFORMERS)
    model = model_of("qwen2")
    ids = torch.arange(12).view(2, 6)
    fast = modeling_qwen2.apply_rotary_pos_emb
    assert isinstance(fast, FastRotation)
    use_fast_rotation(model)
    assert modeling_qwen2.apply_rotary_pos_emb is fast
    found = model(input_ids=ids).logits
    monkeypatch.setattr(modeling_qwen2, "apply_rotary_pos_emb", TRANSFORMERS)
    torch.testing.assert_close(found, model(input_ids=ids).logits, rtol=0, atol=1e-5)


def test_a_rotation_of_another_kind_stays_what_it_is():
    before = modeling_cohere.apply_rotary_pos_emb  # of neighbours instead of halves
    use_fast_rotation(modeling_cohere.CohereLayerNorm(8))
    assert modeling_cohere.apply_rotary_pos_emb is before
