"""Small random models of many families: the trainer's results match transformers up to rounding."""

import pytest
import torch
from tests.trainer.fixtures.families import VOCABULARY, models

from skyrl_core.errors import SkyrlError
from skyrl_train.policy.model_loading import recompute_activations
from skyrl_train.policy.policy import Policy, Sequences
from skyrl_train.policy.prompts.shared_prompts import can_share_prompts
from skyrl_train.rollout.hf.decoding import ModelDecoding, PrefilledPrompts, check_decoding, eval_mode
from skyrl_train.rollout.hf.direct_decoding import can_decode_directly

SHARED = (
    *("apertus", "arcee", "deepseek_v3", "ernie4_5", "gemma", "glm", "glm4", "glm4_moe", "gpt2", "gpt_neox", "granite"),
    *("granitemoe", "hunyuan_v1_dense", "internlm3", "jetmoe", "llama", "minimax_m2", "mixtral", "olmo", "olmo2"),
    *("olmoe", "persimmon", "phi3", "phimoe", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "seed_oss", "smollm3"),
    "starcoder2",
)
"""Families whose samples share the computation of a prompt."""

SEPARATE = (
    *("afmoe", "bamba", "exaone4", "falcon", "falcon_h1", "gemma3_text", "gpt_oss", "granitemoehybrid", "minimax"),
    *("ministral", "mistral", "nemotron", "olmo3", "olmo_hybrid", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next"),
)
"""Families with sliding windows, recurrent states or another attention: one row for each sample."""

DIRECT = {"llama", "qwen2", "qwen3"}

PARTIAL = ("glm4_moe", "gpt_neox", "nemotron", "phi3")
"""Families that can rotate only a part of each head, if configured."""


@pytest.fixture(scope="module")
def sequences():
    """Two samples for each of three prompts, padded."""
    generator = torch.Generator().manual_seed(0)

    def tokens(count):
        return torch.randint(3, VOCABULARY, (count,), generator=generator).tolist()

    prompts = [tokens(length) for length in (5, 3, 4)]
    responses = [tokens(length) for length in (2, 6, 1, 4, 3, 5)]
    rows = [[*prompts[number // 2], *response] for number, response in enumerate(responses)]
    width, longest = max(map(len, rows)), max(map(len, responses))
    return Sequences(
        input_ids=torch.tensor([row + [0] * (width - len(row)) for row in rows]),
        attention_mask=torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows]),
        response_start=torch.tensor([len(prompts[number // 2]) for number in range(len(rows))]),
        response_mask=torch.tensor([[True] * len(r) + [False] * (longest - len(r)) for r in responses]),
    )


def gradient(model, log_probs):
    model.zero_grad()
    (log_probs * torch.linspace(-1, 1, len(log_probs))).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def expected(model, sequences):
    """Log-probs of the response tokens and their gradient, computed by transformers only."""
    logits = model(
        input_ids=sequences.input_ids, attention_mask=sequences.attention_mask.long(), use_cache=False
    ).logits
    rows, tokens = sequences.response_mask.nonzero(as_tuple=True)
    positions = sequences.response_start[rows] + tokens
    log_p = torch.log_softmax(logits[rows, positions - 1], dim=-1)
    log_probs = log_p.gather(-1, sequences.input_ids[rows, positions][:, None]).squeeze(-1)
    return log_probs.detach(), gradient(model, log_probs)


def assert_same(policy, sequences, wanted):
    log_probs = policy.log_probs(sequences, False)[0][sequences.response_mask]
    torch.testing.assert_close(log_probs.detach(), wanted[0], rtol=0, atol=2e-5)
    largest = max(float(grad.abs().max()) for grad in wanted[1].values())
    found = gradient(policy.model, log_probs)
    assert found.keys() == wanted[1].keys()
    for name, grad in wanted[1].items():
        torch.testing.assert_close(found[name], grad, rtol=0, atol=1e-5 * largest, msg=lambda m, name=name: name + m)


@pytest.mark.parametrize("kind", [*SHARED, *SEPARATE])
def test_log_probs_and_gradients_match_transformers(kind, sequences):
    plain, prepared = models(kind)
    wanted = expected(plain, sequences)
    assert can_share_prompts(prepared) == (kind in SHARED)
    for share in {False, kind in SHARED}:
        assert_same(Policy(prepared, chunk_size=64, temperature=1.0, share_prompts=share), sequences, wanted)
    assert can_decode_directly(prepared) == (kind in DIRECT)


def test_the_rollout_engine_refuses_a_family_with_an_unusual_cache():
    with pytest.raises(SkyrlError, match=r"engine hf cannot decode a model of type minimax: .*\n.*vllm"):
        check_decoding(models("minimax")[1])


@pytest.mark.parametrize("kind", sorted({*SHARED, *SEPARATE} - {"minimax"}))
def test_decoding_gives_the_logits_of_complete_sequences(kind):
    _, model = models(kind)
    prompts, prompt_of = [(5, 6, 7, 8, 9), (11, 12)], [0, 1, 0]
    sampled = torch.tensor([[20, 21, 22], [30, 31, 32]])
    with torch.no_grad():
        decoding = ModelDecoding(model, PrefilledPrompts.of(model, prompts, 0), torch.tensor(prompt_of), 2)
        decoding.advance(sampled[0])
        decoding.keep(torch.tensor([1, 2]))
        decoding.advance(sampled[1, 1:])
        for logits, row in zip(decoding.logits, (1, 2), strict=True):
            ids = torch.tensor([[*prompts[prompt_of[row]], *sampled[:, row]]])
            torch.testing.assert_close(logits, model(input_ids=ids, use_cache=False).logits[0, -1], rtol=0, atol=1e-4)


NOISY = {"mixtral": {"router_jitter_noise": 0.1}}
"""Noise in training mode; phimoe always chooses experts at random there, without an option."""


@pytest.mark.parametrize("kind", ["llama", "mixtral", "phimoe", "qwen3_next"])
def test_recomputing_activations_does_not_change_the_results(kind, sequences):
    plain, prepared = models(kind, **NOISY.get(kind, {}))
    wanted = expected(plain, sequences)
    recompute_activations(prepared)
    computed = []
    prepared.base_model.layers[0].mlp.register_forward_pre_hook(lambda *_: computed.append(1))
    assert_same(Policy(prepared, chunk_size=64, temperature=1.0), sequences, wanted)
    assert len(computed) == 2
    with eval_mode(prepared):  # as decoding does; the modes are restored afterwards
        assert not any(part.training for part in prepared.modules())
    assert_same(Policy(prepared, chunk_size=64, temperature=1.0), sequences, wanted)
    assert len(computed) == 4


@pytest.mark.parametrize("kind", PARTIAL)
def test_partial_rotary_embeddings_match_transformers(kind, sequences):
    rotation = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    plain, prepared = models(kind, rope_parameters=rotation)
    wanted = expected(plain, sequences)
    policy = Policy(prepared, chunk_size=64, temperature=1.0, share_prompts=can_share_prompts(prepared))
    assert_same(policy, sequences, wanted)
