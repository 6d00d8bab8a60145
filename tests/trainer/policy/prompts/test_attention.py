import pytest
import torch
from transformers import AttentionInterface, DeepseekV32Config, DeepseekV32ForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from skyrl_train.policy.prompts.attention import attention, register_attention, uses_registered_attention
from skyrl_train.policy.prompts.packing import Packing

HEADS, KEY_HEADS, SIZE = 4, 2, 3
INDEXED = {
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 32,
    "moe_intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "index_topk": 4,  # of 12 tokens
    "index_n_heads": 2,
    "index_head_dim": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
}


class Layer(torch.nn.Module):
    num_key_value_groups = HEADS // KEY_HEADS
    is_causal = True


def tensors(rows, tokens, keys, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = (rows, HEADS, tokens, SIZE), (rows, KEY_HEADS, keys, SIZE), (rows, KEY_HEADS, keys, SIZE)
    return [torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def formula(query, key, value, visible, scaling):
    """softmax(scaling q kᵀ) v, one query at a time."""
    rows, heads, tokens, _ = query.shape
    result = torch.zeros(rows, tokens, heads, SIZE, dtype=query.dtype)
    for row in range(rows):
        for head in range(heads):
            for token in range(tokens):
                seen = visible[row, token].nonzero().squeeze(-1)
                k, v = (tensor[row, head // (HEADS // KEY_HEADS), seen] for tensor in (key, value))
                weights = torch.exp(scaling * (k @ query[row, head, token]))
                result[row, token, head] = weights @ v / weights.sum()
    return result


@pytest.mark.parametrize("form", ["bool", "float"])
@pytest.mark.parametrize(("tokens", "keys"), [(1, 5), (4, 6)])
def test_output_and_gradients_match_the_formula_for_any_mask(tokens, keys, form):
    query, key, value = tensors(2, tokens, keys)
    visible = torch.ones(2, tokens, keys, dtype=torch.bool)
    visible[0, :, :2], visible[1, -1, 3] = False, False
    mask = visible[:, None]
    if form == "float":
        mask = torch.zeros(mask.shape, dtype=torch.float64).masked_fill_(~mask, torch.finfo(torch.float64).min)
    found, weights = attention(Layer(), query, key, value, mask, dropout=0.0, scaling=0.7)
    assert weights is None
    expected = formula(query, key, value, visible, 0.7)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    output_grad = torch.randn(found.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    gradients = [torch.autograd.grad(result, (query, key, value), output_grad) for result in (found, expected)]
    for gradient, expected_gradient in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-12)


def test_a_single_query_without_a_mask_attends_to_all_keys():
    query, key, value = tensors(2, 1, 5)
    found, _ = attention(Layer(), query, key, value, None, scaling=0.7)
    torch.testing.assert_close(found, formula(query, key, value, torch.ones(2, 1, 5), 0.7), rtol=0, atol=1e-12)


def test_a_query_that_sees_no_key_has_a_finite_result():
    query, key, value = tensors(1, 2, 3)
    visible = torch.tensor([[False, False, False], [True, True, False]])
    found, _ = attention(Layer(), query, key, value, visible[None, None], scaling=0.7)
    assert found.isfinite().all()
    torch.testing.assert_close(found[:, 1], formula(query, key, value, visible[None], 0.7)[:, 1], rtol=0, atol=1e-12)


def test_without_a_mask_it_is_causal():
    query, key, value = tensors(2, 4, 4)
    found, _ = attention(Layer(), query, key, value, None, dropout=0.0, scaling=0.7)
    torch.testing.assert_close(found, formula(query, key, value, torch.ones(2, 4, 4).tril(), 0.7), rtol=0, atol=1e-12)


def test_packed_responses_attend_to_their_prompt_and_themselves():
    packing = Packing.of(torch.tensor([3, 1]), torch.tensor([2, 0, 1]), torch.tensor([1, 0, 0]))
    query, key, value = tensors(1, 7, 7)
    mask = torch.zeros(packing.visible().shape, dtype=torch.float64).masked_fill_(~packing.visible(), -1e300)
    found, _ = attention(Layer(), query, key, value, mask, packing=packing, dropout=0.0, scaling=0.7)
    # Tokens 0 to 2 and 3 are the prompts, 4 and 5 a response to the second, 6 one to the first.
    seen = {0: [0], 1: [0, 1], 2: [0, 1, 2], 3: [3], 4: [3, 4], 5: [3, 4, 5], 6: [0, 1, 2, 6]}
    visible = torch.zeros(1, 7, 7)
    for token, keys in seen.items():
        visible[0, token, keys] = 1
    torch.testing.assert_close(found, formula(query, key, value, visible, 0.7), rtol=0, atol=1e-12)


def test_scores_of_low_precision_are_not_rounded():
    query, key, value = (tensor.detach().bfloat16() for tensor in tensors(2, 1, 500))
    found, _ = attention(Layer(), 8 * query, key, value, None, scaling=0.7)
    exact = formula(8 * query.double(), key.double(), value.double(), torch.ones(2, 1, 500), 0.7)
    # Only the result is rounded; rounding scores of up to 40 to 1/8 would change weights by 12 %.
    torch.testing.assert_close(found.double(), exact, rtol=2**-7, atol=2**-9)


def test_unknown_settings_are_passed_to_transformers():
    query, key, value = tensors(2, 1, 5)
    with pytest.raises(ValueError, match="softcap"):
        attention(Layer(), query, key, value, None, scaling=0.7, softcap=50.0)


@pytest.fixture
def llama():
    config = LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    return LlamaForCausalLM(config)


def test_it_replaces_torchs_attention_under_the_same_name(llama):
    register_attention()
    assert uses_registered_attention(llama)
    # Some models check this name, and compute something else for any other.
    assert llama.config._attn_implementation == "sdpa"


def test_a_model_with_another_attention_keeps_it(llama):
    register_attention()
    llama.set_attn_implementation("eager")
    assert not uses_registered_attention(llama)


def test_sparse_attention_gives_the_same_logits_as_with_torchs_attention():
    config = DeepseekV32Config(**INDEXED)
    torch.manual_seed(0)
    model = DeepseekV32ForCausalLM(config).eval()
    ids = torch.arange(12)[None]
    with torch.no_grad():
        AttentionInterface.register("sdpa", sdpa_attention_forward)
        before = model(input_ids=ids, use_cache=False).logits
        register_attention()
        torch.testing.assert_close(model(input_ids=ids, use_cache=False).logits, before, rtol=0, atol=1e-5)
