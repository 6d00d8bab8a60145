import pytest
import torch
from torch import nn
from torch.nn.functional import silu

from skyrl_train.policy.cpu.linear import use_fast_linear
from skyrl_train.rollout.hf.projection import Projection

FOLLOWED = {
    "silu": lambda value, _: silu(value),
    "times": lambda value, other: value * other,
    "plus": lambda value, other: value + other,
}


class Doubled(nn.Linear):
    """A layer with a forward pass of its own, as an adapter has."""

    def forward(self, input):
        return 2 * super().forward(input)


def layers(*kinds, biases=(True, False, True)):
    torch.manual_seed(0)
    sizes = (130, 65, 65)[: len(kinds)]
    made = nn.ModuleList(kind(70, size, bias=bias) for kind, size, bias in zip(kinds, sizes, biases, strict=False))
    use_fast_linear(made)
    return list(made)


def outputs(parts, rows):
    """In float64."""
    found = []
    for part in parts:
        output = rows.double() @ part.weight.double().T + (0 if part.bias is None else part.bias.double())
        found.append(2 * output if isinstance(part, Doubled) else output)
    return torch.cat(found, dim=-1)


@pytest.mark.parametrize("copy", [True, False])
@pytest.mark.parametrize("rows", [3, 128, 131], ids=["few", "many", "unusual"])
@pytest.mark.parametrize("kinds", [[nn.Linear], [nn.Linear] * 3, [nn.Linear, Doubled, nn.Linear]], ids=str)
def test_layers_of_the_same_input_are_one(kinds, rows, copy):
    parts, x = layers(*kinds), torch.randn(rows, 70)
    with torch.no_grad():
        found = Projection(*parts, copy=copy)(x)
        torch.testing.assert_close(found.double(), outputs(parts, x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("follows", FOLLOWED)
@pytest.mark.parametrize("kind", [nn.Linear, Doubled])
@pytest.mark.parametrize("rows", [3, 128, 131])
def test_what_follows_is_computed(rows, kind, follows):
    parts, x, other = layers(kind), torch.randn(rows, 70), torch.randn(rows, 130)
    with torch.no_grad():
        found = Projection(*parts, copy=True)(x, **{follows: True if follows == "silu" else other})
        wanted = FOLLOWED[follows](outputs(parts, x), other.double())
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("copy", [True, False])
def test_a_copy_has_the_weights_of_the_moment_at_which_it_was_made(copy):
    (layer,) = layers(nn.Linear, biases=[False])
    projection, x = Projection(layer, copy=copy), torch.randn(4, 70)
    before = outputs([layer], x)
    with torch.no_grad():
        layer.weight.zero_()
        found = projection(x).double()
    torch.testing.assert_close(found, before if copy else torch.zeros_like(before), rtol=0, atol=1e-5)
