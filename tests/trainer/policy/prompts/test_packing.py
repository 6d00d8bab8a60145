import pytest
import torch

from skyrl_train.policy.prompts.packing import Packing


@pytest.fixture
def packing():
    """Prompts of 3 and 1 tokens; responses of 2, 0 and 1 tokens, to the second, the first and the first."""
    return Packing.of(torch.tensor([3, 1]), torch.tensor([2, 0, 1]), torch.tensor([1, 0, 0]))


def test_tokens_follow_each_other_without_padding(packing):
    assert packing.offsets.tolist() == [0, 3, 4, 6, 6]
    assert (packing.prompts, packing.responses) == ((2, 3), (3, 2))
    # Padded: two prompts of three slots, then three responses of two.
    assert packing.slot_of_token.tolist() == [0, 1, 2, 3, 6, 7, 10]
    assert packing.token_of_slot.tolist() == [0, 1, 2, 3, 7, 7, 4, 5, 7, 7, 6, 7]


def test_a_response_sees_only_its_prompt_and_itself(packing):
    prompt_of_the_first, nothing = [True, False, False], [False, False, False]
    visible = packing.visible()
    assert visible.shape == (3, 1, 2, 5)
    assert visible[0, 0].tolist() == [[*prompt_of_the_first, True, False], [*prompt_of_the_first, True, True]]
    assert visible[2, 0, 0].tolist() == [True, True, True, True, False]
    assert nothing not in visible[:, 0, :, :3].flatten(0, 1).tolist()


def test_unpacked_tensors_are_padded_with_zeros_and_can_be_packed_again(packing):
    tokens = torch.arange(1.0, 8.0)[:, None, None].expand(7, 2, 1)
    prompts, responses = packing.unpacked(tokens)
    assert prompts.shape == (2, 2, 3, 1)
    assert prompts[:, 0, :, 0].tolist() == [[1, 2, 3], [4, 0, 0]]
    assert responses[:, 1, :, 0].tolist() == [[5, 6], [0, 0], [7, 0]]
    together = packing.packed(prompts.transpose(1, 2), responses.transpose(1, 2))
    torch.testing.assert_close(together, tokens, rtol=0, atol=0)


def test_gradients_of_packing_and_unpacking_match_finite_differences(packing):
    tokens = torch.randn(7, 2, 3, dtype=torch.float64, requires_grad=True)
    padded = torch.randn(12, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: tuple(packing.unpacked(x)), tokens)
    split = (2, 3, 2, 3), (3, 2, 2, 3)
    assert torch.autograd.gradcheck(lambda x: packing.packed(x[:6].view(split[0]), x[6:].view(split[1])), padded)


def test_responses_may_all_be_empty():
    packing = Packing.of(torch.tensor([2]), torch.tensor([0, 0]), torch.tensor([0, 0]))
    prompts, responses = packing.unpacked(torch.randn(2, 1, 4))
    assert responses.shape == (2, 1, 0, 4)
    assert packing.packed(prompts.transpose(1, 2), responses.transpose(1, 2)).shape == (2, 1, 4)
