import pytest
import torch

from skyrl_train.rollout.hf.decoding import ModelDecoding, PrefilledPrompts
from skyrl_train.rollout.hf.direct_decoding import DirectDecoding, can_decode_directly

PROMPTS = [(2, 3, 4, 5, 6), (7,), (8, 9)]
PROMPT_OF = [0, 2, 0, 1, 0, 2]  # rows of a prompt need not be adjacent


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
def test_logits_match_the_model_without_a_cache(kind, model_of):
    model = model_of(kind, torch.float64, sliding_window=None)
    assert can_decode_directly(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        decoding = DirectDecoding(model, PrefilledPrompts.of(model, PROMPTS, 0), torch.tensor(PROMPT_OF))
        rows = [list(PROMPTS[number]) for number in PROMPT_OF]
        # Rows leave and are reordered, a prompt loses its last row, and a row outgrows the first block of the cache.
        for step in range(70):
            for row, logits in zip(rows, decoding.logits, strict=True):
                expected = model(input_ids=torch.tensor([row]), use_cache=False).logits[0, -1]
                torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6)  # norms compute in float32
            keep = {2: [5, 0, 1, 2, 4], 5: [4, 1, 0], 9: [0]}.get(step, list(range(len(rows))))
            if len(keep) < len(rows) or step == 2:
                decoding.keep(torch.tensor(keep))
                rows = [rows[row] for row in keep]
            tokens = torch.randint(0, 50, (len(rows),), generator=generator)
            decoding.advance(tokens)
            for row, token in zip(rows, tokens.tolist(), strict=True):
                row.append(token)


def test_groups_of_very_different_sizes_get_no_empty_slots(model_of):
    model = model_of("qwen2")
    prompts = [(number,) for number in range(8)]
    prompt_of = torch.tensor([0] * 9 + list(range(1, 8)))  # groups of up to 9: 72 slots for 16 rows
    with torch.no_grad():
        direct = DirectDecoding(model, PrefilledPrompts.of(model, prompts, 0), prompt_of)
        through_model = ModelDecoding(model, PrefilledPrompts.of(model, prompts, 0), prompt_of, 2)
        assert direct._groups._shape == (16, 1)
        for rows in (list(range(16)), [15, 3, 1]):
            for decoding in (direct, through_model):
                decoding.keep(torch.tensor(rows))
                decoding.advance(torch.arange(len(rows)))
            torch.testing.assert_close(direct.logits, through_model.logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["default", "linear"])
def test_logits_match_decoding_through_the_model(kind, model_of):
    rope = {"rope_type": kind, "rope_theta": 100.0, "factor": 4.0}
    model = model_of("qwen2", rope_parameters=rope, max_position_embeddings=6)  # prompts of up to 5 tokens
    prompt_of = torch.tensor(PROMPT_OF)
    with torch.no_grad():
        direct = DirectDecoding(model, PrefilledPrompts.of(model, PROMPTS, 0), prompt_of)
        through_model = ModelDecoding(model, PrefilledPrompts.of(model, PROMPTS, 0), prompt_of, 3)
        for _ in range(3):
            torch.testing.assert_close(direct.logits, through_model.logits, rtol=0, atol=1e-4)
            tokens = through_model.logits.argmax(-1)
            direct.advance(tokens)
            through_model.advance(tokens)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("gpt2", {}),
        ("gemma3", {"head_dim": 8}),
        ("mistral", {"sliding_window": 4}),
        ("llama", {"hidden_act": "gelu"}),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 4.0}}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    ],
)
def test_models_with_other_layers_are_not_decoded_directly(kind, changes, model_of):
    assert not can_decode_directly(model_of(kind, **changes))


def test_a_known_family_with_modified_layers_is_not_decoded_directly(model_of):
    model = model_of("llama")
    assert can_decode_directly(model)
    model.base_model.layers[0].register_forward_hook(lambda _, __, output: output * 1.01)
    assert not can_decode_directly(model)


def test_the_check_uses_eval_mode_if_activations_are_recomputed(model_of):
    model = model_of("qwen2")
    model.gradient_checkpointing_enable()
    model.train()
    assert can_decode_directly(model)
    assert model.training


def test_low_precision_is_not_decoded_directly(model_of):
    assert not can_decode_directly(model_of("llama", torch.bfloat16))
