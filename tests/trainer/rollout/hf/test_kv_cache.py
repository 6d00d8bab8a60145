"""The preallocated KV cache: the engine's log-probs match those of the same models without a cache."""

from types import SimpleNamespace

import pytest
import torch
from transformers.cache_utils import DynamicLayer

from skyrl_train.rollout.hf import kv_cache as module
from skyrl_train.rollout.hf.kv_cache import PreallocatedLayer, kv_cache
from skyrl_train.rollout.rollout_engine import SampleRequest, Sampling

WINDOW = 6  # shorter than prompt and response
END = 1


CHANGES = {
    "qwen2": {"tie_word_embeddings": True},
    "mistral": {"sliding_window": WINDOW},
    "gemma3": {"head_dim": 8, "sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]},
}


@pytest.mark.parametrize("block", [1, 64])
@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama", "mistral", "gemma3", "gpt2"])
def test_log_probs_match_the_model_without_a_cache(kind, block, model_of, hf_engine, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", block)  # 1: a new buffer for each token
    model = model_of(kind, **CHANGES.get(kind, {}))
    prompts = [tuple(range(2, 13)), (20, 21, 22), (30,)]
    asked = [SampleRequest(prompt_ids=p, seed=10 * i + s) for i, p in enumerate(prompts) for s in range(6)]
    samples = hf_engine(SimpleNamespace(pad_token_id=0), END, trained=model).generate(
        asked, Sampling(max_new_tokens=24)
    )
    lengths = {len(sample.token_ids) for sample in samples}
    assert len(lengths) > 3, "rows have to leave the batch at different times"
    for request, sample in zip(asked, samples, strict=True):
        ids = torch.tensor([[*request.prompt_ids, *sample.token_ids]])
        with torch.no_grad():
            log_p = torch.log_softmax(model(input_ids=ids, use_cache=False).logits[0].double(), -1)
        start = len(request.prompt_ids)
        expected = [float(log_p[start + t - 1, token]) for t, token in enumerate(sample.token_ids)]
        assert sample.log_probs == pytest.approx(expected, abs=2e-4)


def test_only_layers_with_full_attention_are_preallocated(model_of):
    full, windowed = (kv_cache(model_of(kind, **CHANGES.get(kind, {})).config) for kind in ("llama", "gemma3"))
    assert [type(layer) for layer in full.layers] == [PreallocatedLayer, PreallocatedLayer]
    assert type(windowed.layers[0]) is not PreallocatedLayer
    assert type(windowed.layers[1]) is PreallocatedLayer


def test_a_layer_has_the_same_content_as_that_of_transformers():
    torch.manual_seed(0)
    preallocated, plain = PreallocatedLayer(), DynamicLayer()

    def both(method, *arguments):
        for layer in (preallocated, plain):
            getattr(layer, method)(*arguments)
        torch.testing.assert_close(preallocated.keys, plain.keys, rtol=0, atol=0)
        torch.testing.assert_close(preallocated.values, plain.values, rtol=0, atol=0)
        assert preallocated.get_seq_length() == plain.get_seq_length()

    both("update", torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 4))
    both("batch_select_indices", torch.tensor([0, 0, 1, 1, 1]))
    for _ in range(70):
        both("update", torch.randn(5, 3, 1, 4), torch.randn(5, 3, 1, 4))
    both("batch_select_indices", torch.tensor([1, 4]))
    both("update", torch.randn(2, 3, 1, 4), torch.randn(2, 3, 1, 4))


def test_new_tokens_are_written_in_place():
    layer = PreallocatedLayer()
    layer.update(torch.randn(2, 1, 5, 4), torch.randn(2, 1, 5, 4))
    layer.batch_select_indices(torch.tensor([0, 1]))
    before = layer.keys.data_ptr()
    for _ in range(module.BLOCK - 5):
        layer.update(torch.randn(2, 1, 1, 4), torch.randn(2, 1, 1, 4))
    assert layer.keys.data_ptr() == before
    layer.update(torch.randn(2, 1, 1, 4), torch.randn(2, 1, 1, 4))
    assert layer.keys.data_ptr() != before
