import pytest
import torch

from skyrl_train.rollout.weights import GuardedWeights, ModelWeights, PerturbedWeights, WeightsUpdatingError


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
