import torch

from skyrl_train.rollout.hf.kv_cache import BLOCK
from skyrl_train.rollout.hf.own_tokens import OwnTokens


def test_tokens_come_one_after_the_other_and_rows_leave():
    generator, own = torch.Generator().manual_seed(0), OwnTokens()
    rows, heads, size = 3, 2, 4
    keys, values = (torch.empty(rows, heads, 0, size) for _ in range(2))
    for step in range(2 * BLOCK + 2):
        if step in (5, BLOCK):
            kept = torch.tensor([len(keys) - 1, 0])  # fewer, in another order
            own.keep(kept)
            keys, values = keys[kept], values[kept]
        states = torch.randn(len(keys), 2, heads, size, generator=generator)
        found = own.add(states.flatten(1, 2))
        keys, values = (torch.cat([held, states[:, kind, :, None]], 2) for kind, held in enumerate((keys, values)))
        for tensor, wanted in zip(found, (keys, values), strict=True):
            torch.testing.assert_close(tensor, wanted.flatten(0, 1), rtol=0, atol=0)


def test_rows_may_leave_before_anything_was_added():
    own = OwnTokens()
    own.keep(torch.tensor([1]))
    keys, values = own.add(torch.ones(1, 4, 8))
    assert keys.shape == values.shape == (2, 1, 8)
