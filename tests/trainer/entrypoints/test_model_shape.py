"""Shapes of models from configurations and file headers, compared with transformers' models."""

import json

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from skyrl_train.config.schema import LoraConfig, RunConfig
from skyrl_train.entrypoints.model_shape import UnknownShape, shape_of
from skyrl_train.policy.adapters import add_adapters


def shape(folder):
    return shape_of(RunConfig(model=str(folder)))


def trainable(model):
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3", "gemma3"])
@pytest.mark.parametrize("tied", [False, True])
def test_the_shapes_are_those_of_the_loaded_model(model_of, tmp_path, kind, tied):
    biases = {"attention_bias": True} if kind in ("llama", "qwen3") else {}
    model = model_of(kind, tie_word_embeddings=tied, head_dim=8, **biases)
    model.save_pretrained(tmp_path)
    found = shape(tmp_path)
    # Gemma's tensors come from the headers of its file, the others' from the configuration.
    assert found.tensors == {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
    assert (found.vocabulary, found.hidden, found.layers, found.cached_numbers) == (50, 32, 2, 2 * 2 * 8)


@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "down_proj")])
def test_the_adapters_are_those_of_peft(model_of, tmp_path, targets):
    lora = LoraConfig(rank=3, target_modules=targets)
    model = model_of("qwen3")
    model.save_pretrained(tmp_path)
    found = shape(tmp_path).adapters(lora)
    add_adapters(model, lora, seed=0)
    assert sum(rows * columns for rows, columns in found.values()) == trainable(model)


def test_a_model_in_several_files_with_stored_buffers_is_counted(tmp_path):
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=64, n_embd=32, n_layer=2, n_head=4))
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    found = shape(tmp_path)
    assert (found.parameters, found.positions) == (model.num_parameters(), 64)


@pytest.mark.parametrize(
    "content",
    ["{", "{}", '{"model_type": "other", "vocab_size": 3}', '{"quantization_config": {}}', "[]"],
)
def test_files_that_do_not_tell_are_unknown(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UnknownShape):
        shape(tmp_path)


def test_damaged_weights_are_unknown(tmp_path):
    values = {"model_type": "gpt2", "vocab_size": 5, "n_embd": 4, "n_head": 2, "n_layer": 1}
    (tmp_path / "config.json").write_text(json.dumps(values))
    for content in (b"", b"\xff" * 64, b"\x02\x00\x00\x00\x00\x00\x00\x00[]"):
        (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(UnknownShape):
            shape(tmp_path)
