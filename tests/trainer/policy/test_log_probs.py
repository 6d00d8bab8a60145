import math

import pytest
import torch

from skyrl_train.policy import log_probs
from skyrl_train.policy.log_probs import token_statistics

N, H, V = 7, 5, 11


def inputs(dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, H, dtype=dtype, generator=generator).requires_grad_()
    weight = torch.randn(V, H, dtype=dtype, generator=generator).requires_grad_()
    return hidden, weight, torch.randint(0, V, (N,), generator=generator)


def oracle(hidden, weight, token_ids, temperature):
    """Materialised logits, torch.distributions: an independent computation of both outputs."""
    distribution = torch.distributions.Categorical(logits=hidden @ weight.T / temperature)
    return distribution.log_prob(token_ids), distribution.entropy()


@pytest.mark.parametrize("chunk_size", [1, 3, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("tile", [1, 12, 2**22])
def test_values_and_gradients_equal_those_of_materialised_logits(chunk_size, temperature, tile, monkeypatch):
    monkeypatch.setitem(log_probs.TILE, "cpu", tile)
    hidden, weight, ids = inputs()
    coefficients = torch.linspace(-1, 2, N, dtype=torch.float64)
    expected = oracle(hidden, weight, ids, temperature)
    actual = token_statistics(hidden, weight, ids, temperature=temperature, chunk_size=chunk_size, with_entropy=True)
    torch.testing.assert_close(actual.log_probs, expected[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(actual.entropy, expected[1], rtol=0, atol=1e-12)

    def gradients(log_probs, entropy):
        loss = (log_probs * coefficients).sum() + 3 * (entropy * coefficients.flip(0)).sum()
        return torch.autograd.grad(loss, (hidden, weight))

    for got, wanted in zip(gradients(*actual), gradients(*expected), strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-11)


def test_gradient_is_right_by_finite_differences():
    hidden, weight, ids = inputs()
    assert torch.autograd.gradcheck(
        lambda h, w: tuple(token_statistics(h, w, ids, temperature=0.8, chunk_size=2, with_entropy=True)),
        (hidden, weight),
    )


def test_entropy_is_left_out_unless_asked_for():
    hidden, weight, ids = inputs()
    statistics = token_statistics(hidden, weight, ids)
    assert statistics.entropy is None
    assert torch.autograd.gradcheck(lambda h, w: token_statistics(h, w, ids)[0], (hidden, weight))


def test_no_tokens_give_no_values_and_a_zero_gradient():
    hidden, weight, ids = inputs()
    statistics = token_statistics(hidden[:0], weight, ids[:0], with_entropy=True)
    assert statistics.log_probs.shape == (0,)
    (gradient,) = torch.autograd.grad(statistics.log_probs.sum(), weight)
    assert not gradient.any()


def test_uniform_logits_have_the_entropy_of_a_fair_die():
    statistics = token_statistics(torch.zeros(1, H), torch.ones(V, H), torch.tensor([4]), with_entropy=True)
    assert statistics.log_probs.item() == pytest.approx(-2.397895, abs=1e-5)  # -ln 11
    assert statistics.entropy is not None
    assert statistics.entropy.item() == pytest.approx(2.397895, abs=1e-5)


def test_bfloat16_inputs_give_float32_statistics():
    hidden, weight, ids = inputs(torch.float32)
    statistics = token_statistics(hidden.bfloat16(), weight.bfloat16(), ids, with_entropy=True)
    assert statistics.log_probs.dtype == torch.float32
    expected, _ = oracle(hidden.bfloat16().double(), weight.bfloat16().double(), ids, 1.0)
    torch.testing.assert_close(statistics.log_probs.double(), expected, rtol=0.02, atol=0.05)


def test_full_logits_are_never_held(monkeypatch):
    """The largest tensors that the operation makes are as large as its inputs: tiles of logits, and gradients."""
    tokens, vocabulary, chunk = 64, 1000, 8
    monkeypatch.setitem(log_probs.TILE, "cpu", 400)
    hidden = torch.randn(tokens, 4, requires_grad=True)
    weight = torch.randn(vocabulary, 4, requires_grad=True)
    shapes = []

    class Recorder(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                shapes.append(tuple(result.shape))
            return result

    with Recorder():
        statistics = token_statistics(
            hidden, weight, torch.zeros(tokens, dtype=torch.long), chunk_size=chunk, with_entropy=True
        )
        (statistics.log_probs.sum() + statistics.entropy.sum()).backward()
    assert (chunk, 50) in shapes
    assert max(math.prod(shape) for shape in shapes if 4 not in shape) == chunk * 50


def test_extreme_logits_stay_finite():
    hidden = torch.tensor([[1e4], [-1e4], [0.0]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0], [0.0]], requires_grad=True)
    statistics = token_statistics(hidden, weight, torch.tensor([0, 0, 0]), chunk_size=2, with_entropy=True)
    # Certain of the token; certain of another one, 20 000 nats away; a fair die of three.
    torch.testing.assert_close(statistics.log_probs, torch.tensor([0.0, -2e4, -math.log(3)]))
    torch.testing.assert_close(statistics.entropy, torch.tensor([0.0, 0.0, math.log(3)]))
    (statistics.log_probs.sum() + statistics.entropy.sum()).backward()
    assert hidden.grad.isfinite().all()
    assert weight.grad.isfinite().all()


@pytest.mark.parametrize(("temperature", "chunk_size"), [(0.0, 1), (-1.0, 1), (1.0, 0)])
def test_meaningless_settings_are_refused(temperature, chunk_size):
    hidden, weight, ids = inputs()
    with pytest.raises(ValueError, match="positive"):
        token_statistics(hidden, weight, ids, temperature=temperature, chunk_size=chunk_size)
