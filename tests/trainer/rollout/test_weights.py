import pytest
import torch
from safetensors.torch import load_file
from tests.trainer.fixtures.families import models
from transformers import AutoModelForCausalLM

from skyrl_train.config.schema import LoraConfig
from skyrl_train.policy.adapters import add_adapters, merged_tensors
from skyrl_train.rollout.weights import (
    GuardedWeights,
    ModelWeights,
    PerturbedWeights,
    WeightsUpdatingError,
    checkpoint_tensors,
)


def test_perturbed_weights_differ_in_every_tensor_and_do_not_change_the_source():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3)).to(torch.bfloat16)
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    with torch.no_grad():
        before["1.bias"] = model[1].bias.add_(1.0).clone()
    perturbed = dict(PerturbedWeights(ModelWeights(model)).named_tensors())
    again = dict(PerturbedWeights(ModelWeights(model)).named_tensors())
    assert perturbed.keys() == before.keys()
    for name, tensor in model.named_parameters():
        assert torch.equal(tensor, before[name])
        assert perturbed[name].dtype == tensor.dtype
        assert not torch.equal(perturbed[name], tensor)
        assert torch.equal(perturbed[name], again[name])  # the same on every rank


def test_weights_cannot_be_read_during_an_update():
    weights = GuardedWeights(ModelWeights(torch.nn.Linear(1, 1)))
    weights.updating = True
    with pytest.raises(WeightsUpdatingError):
        weights.named_tensors()  # at once
    weights.updating = False
    assert [name for name, _ in weights.named_tensors()] == ["weight", "bias"]


@pytest.mark.parametrize(
    "kind",
    [
        *("llama", "gpt2"),  # as in the module
        *("mixtral", "qwen2_moe", "qwen3_moe", "qwen3_next", "olmoe", "jamba", "granitemoe", "phimoe"),  # fused experts
        *("deepseek_v3", "glm4_moe", "minimax_m2"),  # with a buffer that routes tokens to experts
    ],
)
def test_checkpoint_tensors_are_those_that_save_pretrained_writes(kind, tmp_path):
    _, model = models(kind)
    for name, buffer in model.named_buffers():
        if "bias" in name:
            torch.nn.init.normal_(buffer)
    model.save_pretrained(tmp_path)
    written = load_file(tmp_path / "model.safetensors")
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path)  # which records the conversions that it made
    for source in (model, reloaded):
        synced = dict(checkpoint_tensors(ModelWeights(source)))
        assert synced.keys() == written.keys()
        for name, tensor in written.items():
            assert torch.equal(synced[name], tensor), name


@pytest.mark.parametrize("kind", ["llama", "qwen3_moe"])
def test_merged_adapters_reach_a_checkpoint_under_its_names(kind, tmp_path):
    _, model = models(kind)
    model.save_pretrained(tmp_path)
    names = load_file(tmp_path / "model.safetensors").keys()
    add_adapters(model, LoraConfig(rank=2, target_modules=("q_proj",)), seed=0)

    class Merged(ModelWeights):
        def named_tensors(self):
            return merged_tensors(self.model)

    assert dict(checkpoint_tensors(Merged(model))).keys() == names
