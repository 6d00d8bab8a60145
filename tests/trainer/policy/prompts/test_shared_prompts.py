import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from skyrl_train.policy.policy import Policy, Sequences
from skyrl_train.policy.prompts.shared_prompts import SharedPrompts, can_share_prompts, pairs_per_token

PROMPTS = ((7, 8, 9, 10, 11), (12, 13))
RESPONSES = ((20, 21, 22), (23,), (24, 25, 26, 27), (), (28, 29))
PROMPT_OF = (0, 1, 0, 1, 0)  # rows of a group need not be adjacent


def batch():
    rows = [PROMPTS[p] + response for p, response in zip(PROMPT_OF, RESPONSES, strict=True)]
    width = max(map(len, rows))
    lengths = torch.tensor([len(response) for response in RESPONSES])
    return Sequences(
        input_ids=torch.tensor([[*row, *[0] * (width - len(row))] for row in rows]),
        attention_mask=torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows]),
        response_start=torch.tensor([len(PROMPTS[p]) for p in PROMPT_OF]),
        response_mask=torch.arange(4) < lengths[:, None],
    )


# Norms compute in float32 for every dtype, as do their gradients, except in GPT-2.
@pytest.mark.parametrize(("kind", "rounding"), [("qwen2", 1e-6), ("qwen3", 1e-6), ("llama", 1e-6), ("gpt2", 1e-12)])
def test_a_shared_prompt_changes_neither_values_nor_gradients(kind, rounding, model_of):
    model, sequences = model_of(kind, torch.float64), batch()
    assert can_share_prompts(model)
    coefficients = torch.randn(2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = []
    for share in (False, True):
        policy = Policy(model, chunk_size=3, temperature=0.7, share_prompts=share)
        values = torch.stack(policy.log_probs(sequences, True))
        model.zero_grad()
        (values * coefficients).sum().backward()
        found.append((values.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    (plain, plain_grads), (shared, shared_grads) = found
    torch.testing.assert_close(shared, plain, rtol=0, atol=1e-12)
    for got, wanted in zip(shared_grads, plain_grads, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=rounding * float(wanted.abs().max()) + 1e-12)


def test_the_model_gets_each_prompt_once_and_no_last_tokens(model_of):
    model, seen = model_of("qwen2", torch.float64), []
    model.base_model.register_forward_pre_hook(lambda _, __, inputs: seen.append(inputs), with_kwargs=True)
    Policy(model, chunk_size=8, temperature=1.0, share_prompts=True).log_probs(batch(), False)
    (inputs,) = seen
    # Both prompts; then the responses without their last tokens, which leaves two of them empty.
    assert inputs["input_ids"].tolist() == [[7, 8, 9, 10, 11, 12, 13, 20, 21, 24, 25, 26, 28]]
    assert inputs["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0, 1, 5, 6, 5, 6, 7, 5]]


def test_a_batch_of_one_token_responses_is_computed_from_the_prompts_only(model_of):
    model, plain = model_of("qwen2", torch.float64), batch()
    sequences = Sequences(
        input_ids=plain.input_ids,
        attention_mask=torch.arange(9) < plain.response_start[:, None] + 1,
        response_start=plain.response_start,
        response_mask=torch.ones(5, 1, dtype=torch.bool),
    )
    shared, separate = (
        Policy(model, chunk_size=8, temperature=1.0, share_prompts=share).log_probs(sequences, True)
        for share in (True, False)
    )
    torch.testing.assert_close(shared, separate, rtol=0, atol=1e-12)


def test_a_single_sequence_uses_the_plain_layout(model_of):
    model, shapes = model_of("qwen2", torch.float64), []
    model.base_model.register_forward_pre_hook(
        lambda _, __, inputs: shapes.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
    )
    plain = batch()
    one = Sequences(**{name: tensor[:1] for name, tensor in vars(plain).items() if tensor is not None})
    Policy(model, chunk_size=8, temperature=1.0, share_prompts=True).log_probs(one, False)
    assert shapes == [(1, 9)]


def test_the_cost_counts_prompts_once_and_attention_pairs_with_padding():
    sequences = batch()
    layout = SharedPrompts.of(sequences.input_ids, sequences.attention_mask.sum(-1), sequences.response_start, 4)
    # 5 + 2 prompt tokens and 2 + 0 + 3 + 0 + 1 response tokens; two prompts padded to 5, five responses padded to 3.
    assert layout.cost(10.0) == 10 * 13 + 2 * 5 * 5 + 5 * 3 * (5 + 3)


def test_long_prompts_with_long_responses_of_other_prompts_use_the_plain_layout(model_of):
    model, shapes = model_of("qwen2"), []
    model.base_model.register_forward_pre_hook(
        lambda _, __, inputs: shapes.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
    )
    policy = Policy(model, chunk_size=8, temperature=1.0, share_prompts=True)
    policy._pairs_per_token = 1.0  # attention dominates the cost
    starts = torch.tensor([30, 2])
    sequences = Sequences(
        input_ids=torch.arange(64).remainder(50).reshape(2, 32),
        attention_mask=torch.ones(2, 32, dtype=torch.bool),
        response_start=starts,
        response_mask=torch.arange(30) < 32 - starts[:, None],
    )
    policy.log_probs(sequences, False)
    assert shapes == [(2, 32)]
    # 64 tokens and 2 x 32 x 32 pairs, against two prompts padded to 30 and two responses padded to 29 that see 59 keys.
    assert policy.cost(sequences) == 64 + 2 * 32 * 32 < 64 + 2 * 30 * 30 + 2 * 29 * 59


def test_sequences_without_responses_have_no_values(model_of):
    plain = batch()
    sequences = Sequences(
        input_ids=plain.input_ids,
        attention_mask=torch.arange(9) < plain.response_start[:, None],
        response_start=plain.response_start,
        response_mask=torch.ones(5, 0, dtype=torch.bool),
    )
    values, _ = Policy(model_of("qwen2"), chunk_size=8, temperature=1.0, share_prompts=True).log_probs(sequences, False)
    assert values.shape == (5, 0)


def test_the_cost_of_a_token_counts_the_weights_of_the_layers():
    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=64, n_embd=32, n_layer=2, n_head=4))
    # 12 h² + 13 h per layer, 2 h for the last norm, 64 h for the positions; a pair costs 2 h per layer.
    weights = 2 * (12 * 32 * 32 + 13 * 32) + 2 * 32 + 64 * 32
    assert pairs_per_token(model) == weights / (2 * 32 * 2)


@pytest.mark.parametrize(("kind", "changes"), [("gemma3", {}), ("mistral", {"sliding_window": 4}), ("bloom", {})])
def test_models_with_windows_or_without_position_ids_do_not_share(kind, changes, model_of):
    assert not can_share_prompts(model_of(kind, **changes))


def test_a_model_with_another_attention_does_not_share(model_of):
    model = model_of("llama")
    model.set_attn_implementation("eager")
    assert not can_share_prompts(model)
