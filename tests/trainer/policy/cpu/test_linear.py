import pytest
import torch
from torch import nn

from skyrl_train.policy.cpu.linear import FastLinear, use_fast_linear


def layers(inputs, outputs, bias):
    """torch's layer in float64, and the fast one with the same parameters in float32."""
    torch.manual_seed(0)
    reference = nn.Linear(inputs, outputs, bias=bias).double()
    fast = nn.Linear(inputs, outputs, bias=bias)
    fast.load_state_dict(reference.state_dict())
    use_fast_linear(fast)
    return reference, fast


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("inputs", "outputs"), [(3, 5), (130, 70), (70, 130)])
def test_values_and_gradients_are_those_of_torch_in_float64(inputs, outputs, bias):
    reference, fast = layers(inputs, outputs, bias)
    assert type(fast) is FastLinear
    x = torch.randn(4, 64, inputs)  # 256 rows of at least 70 x 130: large enough for oneDNN
    slope = torch.randn(4, 64, outputs)
    found = []
    for layer, dtype in ((reference, torch.float64), (fast, torch.float32)):
        own = x.to(dtype).requires_grad_()
        result = layer(own)
        found.append((result, *torch.autograd.grad(result, [own, *layer.parameters()], slope.to(dtype))))
    for wanted, got in zip(*found, strict=True):
        assert got.dtype == torch.float32
        # Sums of up to 256 products of float32 numbers.
        torch.testing.assert_close(got.double(), wanted, rtol=0, atol=1e-5 * float(wanted.detach().abs().max()))
    with torch.no_grad():
        torch.testing.assert_close(fast(x), found[1][0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("weight", "rows"), [(True, True), (False, True), (True, False)])
def test_nothing_is_kept_that_no_gradient_needs(weight, rows):
    layer = nn.Linear(96, 96)
    use_fast_linear(layer)
    layer.requires_grad_(weight)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        layer(torch.randn(320, 96, requires_grad=rows))
    assert (torch.Size([320, 96]) in kept) == weight
    assert (torch.Size([96, 96]) in kept) == rows


def test_what_is_frozen_gets_no_gradient():
    _, fast = layers(130, 70, True)
    fast.weight.requires_grad_(False)
    x = torch.randn(208, 130, requires_grad=True)
    fast(x).sum().backward()
    assert fast.weight.grad is None
    torch.testing.assert_close(x.grad, fast.weight.sum(0).expand(208, -1), rtol=0, atol=1e-5)
    torch.testing.assert_close(fast.bias.grad, torch.full((70,), 208.0), rtol=0, atol=0)


def test_products_of_few_sizes_alone_are_asked_of_another_library(monkeypatch):
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch is built without oneDNN")
    asked = []
    original = torch.ops.mkldnn._linear_pointwise
    monkeypatch.setattr(
        torch.ops.mkldnn, "_linear_pointwise", lambda *a: asked.append(tuple(a[0].shape)) or original(*a)
    )
    _, fast = layers(130, 70, True)
    for rows in range(240, 280):
        fast(torch.randn(rows, 130, requires_grad=True)).sum().backward()
    # Forward, then the gradients of the rows and of the weight, of which the shorter side comes first.
    assert asked == [shape for n in (240, 256, 272) for shape in ((n, 130), (n, 70), (70, n))]


def test_what_is_differentiated_does_not_depend_on_the_number_of_rows():
    """Ranks with different batches would reduce their gradients in different orders."""
    _, fast = layers(130, 70, True)
    names = {type(fast(torch.randn(rows, 130)).grad_fn.next_functions[0][0]).__name__ for rows in (1, 240, 241)}
    assert names == {"_LinearBackward"}


def test_no_rows_give_no_rows():
    _, fast = layers(130, 70, True)
    assert fast(torch.randn(0, 130)).shape == (0, 70)
    assert fast(torch.randn(2, 0, 130)).shape == (2, 0, 70)


def test_other_types_are_left_to_torch():
    _, fast = layers(130, 70, True)
    x = torch.randn(200, 130)
    expected = nn.functional.linear(x.bfloat16(), fast.weight.bfloat16(), fast.bias.bfloat16())
    torch.testing.assert_close(fast.bfloat16()(x.bfloat16()), expected, rtol=0, atol=0)


def test_layers_of_a_class_of_their_own_stay_what_they_are():
    class Special(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(2, 2), Special(2, 2))
    use_fast_linear(model)
    assert [type(layer) for layer in model] == [FastLinear, Special]
