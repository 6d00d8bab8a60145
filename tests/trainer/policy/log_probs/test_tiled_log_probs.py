import math
import weakref

import pytest
import torch

from skyrl_train.policy.log_probs import tiled_log_probs
from skyrl_train.policy.log_probs.kept_tokens import KeptTokens
from skyrl_train.policy.log_probs.tile_passes import TorchPasses
from skyrl_train.policy.log_probs.tiled_log_probs import token_statistics

N, H, V = 7, 5, 11


def inputs(dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, H, dtype=dtype, generator=generator).requires_grad_()
    weight = torch.randn(V, H, dtype=dtype, generator=generator).requires_grad_()
    return hidden, weight, torch.randint(0, V, (N,), generator=generator)


KEPT = [[3, 0], [10], [2, 5, 6, 9], [1, 10], list(range(V)), [4, 7], [8, 1]]
"""Entries of each token; the sampled one is added. With tiles of one or two entries most tiles of a token are empty."""


def oracle(hidden, weight, token_ids, temperature, kept=None):
    """Materialised logits, torch.distributions: an independent computation of both outputs."""
    logits = hidden @ weight.T / temperature
    if kept is not None:
        left_out = torch.tensor([[entry not in entries for entry in range(V)] for entries in kept])
        logits = logits.masked_fill(left_out, -1000.0)  # whose exponential is 0, with a finite entropy
    distribution = torch.distributions.Categorical(logits=logits)
    return distribution.log_prob(token_ids), distribution.entropy()


@pytest.mark.parametrize("chunk_size", [1, 3, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("tile", [1, 12, 2**22])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("truncated", [False, True])
def test_values_and_gradients_match_materialised_logits(chunk_size, temperature, tile, share, truncated, monkeypatch):
    monkeypatch.setitem(tiled_log_probs.TILE, "cpu", tile)
    monkeypatch.setattr(tiled_log_probs, "KEPT_SHARE", share)
    monkeypatch.setattr(tiled_log_probs, "KEPT_MIN_BYTES", 0)
    hidden, weight, ids = inputs()
    coefficients = torch.linspace(-1, 2, N, dtype=torch.float64)
    sets = [sorted({*entries, int(own)}) for entries, own in zip(KEPT, ids, strict=True)] if truncated else None
    kept = KeptTokens.of([sets], N)[0] if sets is not None else None
    expected = oracle(hidden, weight, ids, temperature, sets)
    settings = {"temperature": temperature, "chunk_size": chunk_size, "with_entropy": True}
    actual = token_statistics(hidden, weight, ids, kept=kept, **settings)
    torch.testing.assert_close(actual.log_probs, expected[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(actual.entropy, expected[1], rtol=0, atol=1e-12)

    def gradients(log_probs, entropy):
        loss = (log_probs * coefficients).sum() + 3 * (entropy * coefficients.flip(0)).sum()
        return torch.autograd.grad(loss, (hidden, weight))

    for got, wanted in zip(gradients(*actual), gradients(*expected), strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-11)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_gradient_matches_finite_differences(share, monkeypatch):
    monkeypatch.setitem(tiled_log_probs.TILE, "cpu", 6)
    monkeypatch.setattr(tiled_log_probs, "KEPT_SHARE", share)
    monkeypatch.setattr(tiled_log_probs, "KEPT_MIN_BYTES", 0)
    hidden, weight, ids = inputs()
    assert torch.autograd.gradcheck(
        lambda h, w: tuple(token_statistics(h, w, ids, temperature=0.8, chunk_size=2, with_entropy=True)),
        (hidden, weight),
    )


def test_entropy_is_not_computed_unless_requested():
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


def test_uniform_logits_have_the_entropy_of_a_uniform_distribution():
    statistics = token_statistics(torch.zeros(1, H), torch.ones(V, H), torch.tensor([4]), with_entropy=True)
    assert statistics.log_probs.item() == pytest.approx(-2.397895, abs=1e-5)  # -ln 11
    assert statistics.entropy is not None
    assert statistics.entropy.item() == pytest.approx(2.397895, abs=1e-5)


@pytest.mark.parametrize(("dtype", "logit_rounding"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-8)], ids=str)
def test_sums_are_float32_for_all_input_types(dtype, logit_rounding, monkeypatch):
    """The error against float64 is the rounding of single logits; it does not accumulate."""
    vocabulary, size = 3000, 64
    monkeypatch.setitem(tiled_log_probs.TILE, "cpu", 64 * 1000)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(256, size, generator=generator).to(dtype).requires_grad_()
    weight = (torch.randn(vocabulary, size, generator=generator) / 8).to(dtype).requires_grad_()
    ids = torch.randint(vocabulary, (256,), generator=generator)
    values = token_statistics(hidden, weight, ids, chunk_size=64, with_entropy=True)
    assert {value.dtype for value in values} == {torch.float32}
    exact = (hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_())
    expected = oracle(*exact, ids, 1.0)
    largest = (exact[0] @ exact[1].T).abs().max().item()
    # Sums over 3000 entries average out the rounding of logits; that of the chosen logit remains.
    torch.testing.assert_close(values.log_probs.double(), expected[0], rtol=0, atol=largest * logit_rounding)
    torch.testing.assert_close(values.entropy.double(), expected[1], rtol=0, atol=largest * logit_rounding / 5 + 1e-5)
    for value, right in zip(values, expected, strict=True):
        found = torch.autograd.grad(value.sum(), (hidden, weight), retain_graph=True)
        assert {gradient.dtype for gradient in found} == {dtype}
        for got, wanted in zip(found, torch.autograd.grad(right.sum(), exact, retain_graph=True), strict=True):
            assert (got.double() - wanted).norm() <= 3 * logit_rounding * wanted.norm()


@pytest.mark.parametrize("frozen", ["hidden", "weight"])
def test_freezing_one_input_does_not_change_the_gradient_of_the_other(frozen):
    hidden, weight, ids = inputs()
    expected = torch.autograd.grad(token_statistics(hidden, weight, ids).log_probs.sum(), (hidden, weight))
    (hidden if frozen == "hidden" else weight).requires_grad_(False)
    token_statistics(hidden, weight, ids).log_probs.sum().backward()
    grads = {"hidden": hidden.grad, "weight": weight.grad}
    assert grads.pop(frozen) is None
    torch.testing.assert_close(*grads.values(), expected[frozen == "hidden"])


class TileRecorder(TorchPasses):
    """Records weak references to the tiles; ``alive`` is the number of entries still in memory."""

    def __init__(self):
        self.tiles = []

    def add(self, sums, logits, columns, scale):
        self.tiles.append(weakref.ref(logits))
        super().add(sums, logits, columns, scale)

    @property
    def alive(self):
        return sum(tile().numel() for tile in self.tiles if tile() is not None)


@pytest.mark.parametrize(("limit", "alive"), [(1.0, 1.0), (0.25, 0.25), (0.09, 0.075), (0.0, 0.0)])
@pytest.mark.parametrize("by", ["share", "bytes"])
def test_the_tiles_kept_for_the_backward_pass_are_bounded(limit, alive, by, monkeypatch):
    tokens, vocabulary = 80, 50  # 40 tiles of 100 entries
    monkeypatch.setitem(tiled_log_probs.TILE, "cpu", 100)
    monkeypatch.setattr(tiled_log_probs, "KEPT_SHARE", limit if by == "share" else 1.0)
    monkeypatch.setattr(tiled_log_probs, "KEPT_MIN_BYTES", 0)
    max_bytes = 2**30 if by == "share" else int(limit * tokens * vocabulary * 4)
    monkeypatch.setattr(tiled_log_probs, "KEPT_MAX_BYTES", max_bytes)
    hidden, weight = torch.randn(tokens, 4, requires_grad=True), torch.randn(vocabulary, 4, requires_grad=True)
    passes = TileRecorder()
    ids = torch.zeros(tokens, dtype=torch.long)
    values = token_statistics(hidden, weight, ids, chunk_size=20, passes=passes)
    assert len(passes.tiles) == 40
    assert passes.alive == alive * tokens * vocabulary
    values.log_probs.sum().backward()
    assert passes.alive == 0


def test_no_tiles_are_kept_if_no_gradient_is_needed():
    hidden, weight, ids = inputs()
    passes = TileRecorder()
    with torch.no_grad():
        values = token_statistics(hidden, weight, ids, passes=passes)
    frozen = token_statistics(hidden.detach(), weight.detach(), ids, passes=passes)
    assert passes.alive == 0
    assert torch.equal(values.log_probs, frozen.log_probs)


def test_a_second_backward_pass_computes_the_same_gradient(monkeypatch):
    monkeypatch.setitem(tiled_log_probs.TILE, "cpu", 12)
    hidden, weight, ids = inputs(torch.float32)
    loss = torch.stack(token_statistics(hidden, weight, ids, chunk_size=3, with_entropy=True)).sum()
    first = torch.autograd.grad(loss, (hidden, weight), retain_graph=True)  # from the kept tiles
    second = torch.autograd.grad(loss, (hidden, weight))  # from recomputed tiles
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_full_logits_are_never_materialised(monkeypatch):
    """No tensor except the gradients of the inputs is larger than a tile of logits."""
    tokens, vocabulary, chunk = 64, 1000, 8
    monkeypatch.setitem(tiled_log_probs.TILE, "cpu", 400)
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
    # All probability on the token; all on another one, 20 000 nats away; uniform over three.
    torch.testing.assert_close(statistics.log_probs, torch.tensor([0.0, -2e4, -math.log(3)]))
    torch.testing.assert_close(statistics.entropy, torch.tensor([0.0, 0.0, math.log(3)]))
    (statistics.log_probs.sum() + statistics.entropy.sum()).backward()
    assert hidden.grad.isfinite().all()
    assert weight.grad.isfinite().all()


@pytest.mark.parametrize(("temperature", "chunk_size"), [(0.0, 1), (-1.0, 1), (1.0, 0)])
def test_settings_that_are_not_positive_are_refused(temperature, chunk_size):
    hidden, weight, ids = inputs()
    with pytest.raises(ValueError, match="positive"):
        token_statistics(hidden, weight, ids, temperature=temperature, chunk_size=chunk_size)


def test_second_derivatives_raise_an_error():
    hidden = torch.randn(4, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(12, 8, dtype=torch.float64, requires_grad=True)
    log_probs, _ = token_statistics(hidden, weight, torch.arange(4), temperature=1.0, with_entropy=False)
    (gradient,) = torch.autograd.grad(log_probs.square().sum(), hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
