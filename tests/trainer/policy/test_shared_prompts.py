import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from skyrl_train.policy.policy import Policy, Sequences
from skyrl_train.policy.shared_prompts import (
    Shape,
    SharedPrompts,
    can_share_prompts,
    cheapest,
    pairs_of_a_token,
)

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
PROMPTS = ((7, 8, 9, 10, 11), (12, 13))
RESPONSES = ((20, 21, 22), (23,), (24, 25, 26, 27), (), (28, 29))
PROMPT_OF = (0, 1, 0, 1, 0)  # the rows of a group need not be neighbours


def build(kind, dtype=torch.float64, **changes):
    torch.manual_seed(0)
    sizes = SIZES | changes
    if kind == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=64, n_embd=32, n_layer=2, n_head=4))
    elif kind == "bloom":
        model = BloomForCausalLM(BloomConfig(vocab_size=50, hidden_size=32, n_layer=2, n_head=4))
    else:
        config, model_class = {
            "qwen2": (Qwen2Config, Qwen2ForCausalLM),
            "qwen3": (Qwen3Config, Qwen3ForCausalLM),
            "llama": (LlamaConfig, LlamaForCausalLM),
            "mistral": (MistralConfig, MistralForCausalLM),
            "gemma3": (Gemma3TextConfig, Gemma3ForCausalLM),
        }[kind]
        model = model_class(config(**sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)  # as made, attention would hardly matter
    return model.to(dtype).eval()


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


# The norms of all but GPT-2 compute in float32 whatever the model is in, and so does their part of the gradient.
@pytest.mark.parametrize(("kind", "rounding"), [("qwen2", 1e-6), ("qwen3", 1e-6), ("llama", 1e-6), ("gpt2", 1e-12)])
def test_a_shared_prompt_changes_neither_values_nor_gradients(kind, rounding):
    model, sequences = build(kind), batch()
    assert can_share_prompts(model)
    slopes = torch.randn(2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = []
    for share in (False, True):
        policy = Policy(model, chunk_size=3, temperature=0.7, share_prompts=share)
        values = torch.stack(policy.score(sequences, True))
        model.zero_grad()
        (values * slopes).sum().backward()
        found.append((values.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    (plain, plain_grads), (shared, shared_grads) = found
    torch.testing.assert_close(shared, plain, rtol=0, atol=1e-12)
    for own, other in zip(shared_grads, plain_grads, strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=rounding * float(other.abs().max()) + 1e-12)


def test_the_model_reads_each_prompt_once_and_no_last_token():
    model, seen = build("qwen2"), []
    model.base_model.register_forward_pre_hook(lambda _, __, inputs: seen.append(inputs), with_kwargs=True)
    Policy(model, chunk_size=8, temperature=1.0, share_prompts=True).score(batch(), False)
    (inputs,) = seen
    # 5 + 2 + 3 + 1 columns of the first prompt and its responses without their last tokens; 2 + 0 + 0 of the second.
    assert inputs["input_ids"].tolist() == [[7, 8, 9, 10, 11, 20, 21, 24, 25, 26, 28, 12, 13]]
    assert inputs["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5, 6, 5, 6, 7, 5, 0, 1]]


def test_a_response_sees_its_prompt_and_itself_alone():
    packed = SharedPrompts(*_layout(batch()), 1.0).packed()
    visible = packed.visible[0, 0].int()
    assert visible[5].tolist() == [1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0]
    assert visible[8].tolist() == [1, 1, 1, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0]
    assert visible[10].tolist() == [1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 1, 0, 0]
    assert visible[12].tolist() == [0] * 11 + [1, 1]
    assert visible[2].tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]


def _layout(sequences):
    lengths = sequences.attention_mask.sum(-1)
    return sequences.input_ids, lengths, sequences.response_start, sequences.response_mask.shape[1]


def test_small_trees_share_rows_where_padding_costs_more_than_pairs():
    ids = torch.arange(1, 29).reshape(4, 7)
    arguments = (ids, torch.tensor([7, 4, 4, 3]), torch.tensor([4, 2, 2, 1]), 3)
    # Widths 6, 3, 3 and 2. In rows of their own 24 columns; in two rows of 8 and 6, 16 columns, or 14 in one row.
    assert SharedPrompts(*arguments, 30.0).shape == Shape(tokens=16, pairs=2 * 64)
    assert SharedPrompts(*arguments, 0.0).shape == Shape(tokens=16, pairs=2 * 64)
    assert SharedPrompts(*arguments, 60.0).shape == Shape(tokens=14, pairs=14 * 14)


def test_long_responses_are_computed_apart():
    model = build("qwen2", hidden_size=4, intermediate_size=4)
    # Eight responses of 30 tokens to one prompt of 2: in one row, attention would cost more than the prompts.
    ids = torch.arange(8 * 32).remainder(50).reshape(8, 32)
    ids[:, :2] = 1
    sequences = Sequences(
        input_ids=ids,
        attention_mask=torch.ones(8, 32, dtype=torch.bool),
        response_start=torch.full((8,), 2),
        response_mask=torch.ones(8, 30, dtype=torch.bool),
    )
    shapes = []
    model.base_model.register_forward_pre_hook(
        lambda _, __, inputs: shapes.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
    )
    Policy(model, chunk_size=8, temperature=1.0, share_prompts=True).score(sequences, False)
    assert shapes == [(8, 32)]


def test_the_cost_of_a_token_is_that_of_the_weights_of_the_layers():
    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=64, n_embd=32, n_layer=2, n_head=4))
    # 12 h² + 13 h for each layer, 2 h of the last norm, and the 64 h of the positions; a pair takes 2 h in each layer.
    weights = 2 * (12 * 32 * 32 + 13 * 32) + 2 * 32 + 64 * 32
    assert pairs_of_a_token(model) == weights / (2 * 32 * 2)


@pytest.mark.parametrize(("kind", "changes"), [("gemma3", {}), ("mistral", {"sliding_window": 4}), ("bloom", {})])
def test_models_that_see_less_or_know_no_positions_do_not_share(kind, changes):
    assert not can_share_prompts(build(kind, torch.float32, **changes))


def test_a_model_with_another_attention_does_not_share():
    model = build("llama")
    model.set_attn_implementation("eager")
    assert not can_share_prompts(model)


def test_a_large_group_is_split_where_its_responses_are_long():
    # Eight responses of 20 tokens, 19 of them computed, to one prompt of 20. All in a tree: 172 columns.
    ids = torch.arange(8 * 40).reshape(8, 40)
    ids[:, :20] = 1
    arguments = (ids, torch.full((8,), 40), torch.full((8,), 20), 20)
    # Pairs and 30 for each token: 34 744 with 8 in a tree; 2 · 96² + 30 · 192 = 24 192 with 4; with 2,
    # 4 · 58² + 30 · 232 = 20 416.
    assert cheapest(*arguments, 30.0).shape == Shape(tokens=232, pairs=4 * 58 * 58)
    # At 1000 for each token the fewest tokens win: 201 584, 210 432, 245 456.
    assert cheapest(*arguments, 1000.0).shape == Shape(tokens=172, pairs=172 * 172)


def test_a_layout_with_too_large_a_mask_is_not_taken(monkeypatch):
    ids = torch.arange(8 * 40).reshape(8, 40)
    ids[:, :20] = 1
    arguments = (ids, torch.full((8,), 40), torch.full((8,), 20), 20)
    # As above: all in a tree is cheapest, with 172² pairs; four in a tree are next, with 2 · 96².
    monkeypatch.setattr("skyrl_train.policy.shared_prompts.LARGEST_MASK", 172 * 172 - 1)
    assert cheapest(*arguments, 1000.0).shape == Shape(tokens=192, pairs=2 * 96 * 96)
    monkeypatch.setattr("skyrl_train.policy.shared_prompts.LARGEST_MASK", 0)
    assert cheapest(*arguments, 1000.0) is None
