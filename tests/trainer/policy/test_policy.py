import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from skyrl_train.policy.policy import Policy, Sequences


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def model(request):
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=request.param,
    )
    return Qwen2ForCausalLM(config).eval()


def ragged_sequences():
    """Two rows: prompts of 2 and 3 tokens, responses of 4 and 1, with a hole in the first response."""
    ids = torch.tensor([[5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 0, 0]])
    return Sequences(
        input_ids=ids,
        attention_mask=torch.tensor([[True] * 6, [True] * 4 + [False] * 2]),
        response_start=torch.tensor([2, 3]),
        response_mask=torch.tensor([[True, False, True, True], [True, False, False, False]]),
    )


def test_log_probs_and_entropy_match_the_logits_of_the_model(model):
    sequences = ragged_sequences()
    log_probs, entropy = Policy(model, chunk_size=2, temperature=0.9).log_probs(sequences, True)
    for row in range(2):
        length = int(sequences.attention_mask[row].sum())
        # A separate forward pass for each row, without padding.
        logits = model(sequences.input_ids[row : row + 1, :length]).logits[0] / 0.9
        distribution = torch.distributions.Categorical(logits=logits)
        for token in range(4):
            if not sequences.response_mask[row, token]:
                assert log_probs[row, token] == 0
                assert entropy[row, token] == 0
                continue
            position = int(sequences.response_start[row]) + token
            before = position - 1
            expected = distribution.log_prob(sequences.input_ids[row, :length].roll(-1))[before]
            torch.testing.assert_close(log_probs[row, token], expected, rtol=0, atol=1e-5)
            torch.testing.assert_close(entropy[row, token], distribution.entropy()[before], rtol=0, atol=1e-5)


def test_entropy_is_not_computed_unless_requested(model):
    _, entropy = Policy(model, chunk_size=8, temperature=1.0).log_probs(ragged_sequences(), False)
    assert entropy is None


def test_gradient_reaches_every_parameter(model):
    log_probs, entropy = Policy(model, chunk_size=3, temperature=1.0).log_probs(ragged_sequences(), True)
    (log_probs.sum() + entropy.sum()).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_a_batch_without_response_tokens_still_has_a_backward_pass(model):
    sequences = ragged_sequences()
    masked = Sequences(
        input_ids=sequences.input_ids,
        attention_mask=sequences.attention_mask,
        response_start=sequences.response_start,
        response_mask=torch.zeros_like(sequences.response_mask),
    )
    log_probs, _ = Policy(model, chunk_size=3, temperature=1.0).log_probs(masked, False)
    log_probs.sum().backward()
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.parameters())
