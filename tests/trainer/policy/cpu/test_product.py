import pytest
import torch

from skyrl_train.policy.cpu.product import ONEDNN_FROM, few_sizes, product


def matrices(m, n, k, dtype):
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(rows, k, generator=generator).to(dtype) for rows in (m, n))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(7, 11, 5), (300, 257, 250)], ids=["small", "large"])
def test_equals_the_product_in_float64(shape, dtype, transposed):
    a, b = matrices(*shape, dtype)
    assert (len(a) * len(b) * shape[2] >= ONEDNN_FROM) == (shape[0] == 300)
    wanted = torch.einsum("mk,nk->mn", a.double(), b.double())
    if transposed:  # elements in the order of columns, as a gradient's
        a, b = a.T.contiguous().T, b.T.contiguous().T
    found = product(a, b)
    assert found.dtype == dtype
    tolerance = 1e-12 if dtype == torch.float64 else 1e-4  # of sums of 250 products of normal numbers
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(7, 11, 5), (300, 257, 250)], ids=["small", "large"])
def test_what_follows_is_done_to_the_sum(shape, dtype):
    a, b = matrices(*shape, dtype)
    generator = torch.Generator().manual_seed(1)
    bias, other = (torch.randn(size, generator=generator, dtype=dtype) for size in (shape[1], shape[:2]))
    wanted = a.double() @ b.double().T + bias.double()
    found = {
        "silu": (product(a, b, bias, silu=True), wanted / (1 + (-wanted).exp())),
        "times": (product(a, b, bias, times=other), wanted * other.double()),
        "plus": (product(a, b, bias, plus=other), wanted + other.double()),
    }
    for got, expected in found.values():
        assert got.dtype == dtype
        # Numbers up to 300, of sums of 250 products.
        torch.testing.assert_close(got.double(), expected, rtol=0, atol=1e-3 if dtype == torch.float32 else 1e-11)


def test_a_bias_may_lie_anywhere():
    a, b = matrices(300, 256, 250, torch.float32)
    for bias in (torch.ones(1).expand(256), torch.arange(512.0)[::2], torch.arange(256.0).flip(0)):
        wanted = a.double() @ b.double().T + bias.double()
        torch.testing.assert_close(product(a, b, bias).double(), wanted, rtol=1e-5, atol=1e-4)


def test_large_float32_products_on_a_cpu_ask_onednn(monkeypatch):
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch is built without oneDNN")
    asked = []
    original = torch.ops.mkldnn._linear_pointwise
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda *a: asked.append(a[0].shape) or original(*a))
    for m in (7, 300):
        product(*matrices(m, 257, 250, torch.float32))
    product(*matrices(300, 257, 250, torch.float64))
    assert asked == [(300, 250)]


def test_sizes_are_few_and_little_larger():
    sizes = {few_sizes(rows) for rows in range(1, 2**16)}
    assert len(sizes) < 300
    assert all(rows <= few_sizes(rows) <= max(rows + 15, rows * 33 / 32) for rows in range(1, 2**16))
    assert [few_sizes(rows) for rows in (1, 16, 17, 2048, 2049, 6700)] == [16, 16, 32, 2048, 2112, 6784]
