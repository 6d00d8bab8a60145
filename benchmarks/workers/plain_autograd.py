"""The gradient of an objective by plain autograd: one process, materialised logits, the full batch at once."""

import copy

import torch
from torch import Tensor
from transformers import PreTrainedModel

from skyrl_core.contract import Need, count_batch, token_weights, weighted_sum
from skyrl_core.maths import kl_loss
from skyrl_train.step.experience import Experience
from skyrl_train.step.objective import Objective

Gradient = dict[str, Tensor]


def plain_gradient(model: PreTrainedModel, batch: Experience, objective: Objective) -> Gradient:
    """The gradient by parameter, in float64; computed in the model's type."""
    dtype = next(model.parameters()).dtype
    batch = batch._map(lambda _, tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)
    model.zero_grad()
    log_probs, entropy = _statistics(model, batch, dtype)
    given = {
        "rollout_log_probs": batch.rollout_log_probs if Need.ROLLOUT_LOG_PROBS in objective.needs else None,
        "ref_log_probs": batch.ref_log_probs if Need.REF_LOG_PROBS in objective.needs else None,
        "entropy": entropy if Need.ENTROPY in objective.needs else None,
        "groups": batch.groups,
    }
    total = objective.loss.loss.compute_loss(log_probs, batch.old_log_probs, batch.advantages, batch.mask, **given)
    weights = token_weights(batch.mask, objective.reduction, count_batch(batch.mask, batch.groups), dtype=dtype)
    kl = kl_loss(log_probs, batch.ref_log_probs, objective.kl_estimator)
    (total + objective.kl_coef * weighted_sum(kl, weights, batch.mask)).backward()
    named = model.named_parameters()
    return {name: parameter.grad.double().clone() for name, parameter in named if parameter.grad is not None}


def _statistics(model: PreTrainedModel, batch: Experience, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    logits = model(batch.input_ids, attention_mask=batch.sequences.attention_mask.long()).logits
    rows, tokens = batch.mask.nonzero(as_tuple=True)
    positions = batch.response_start[rows] + tokens
    distribution = torch.distributions.Categorical(logits=logits[rows, positions - 1])
    log_probs, entropy = torch.zeros(batch.mask.shape, dtype=dtype), torch.zeros(batch.mask.shape, dtype=dtype)
    log_probs = log_probs.index_put((rows, tokens), distribution.log_prob(batch.input_ids[rows, positions]))
    return log_probs, entropy.index_put((rows, tokens), distribution.entropy())


def in_float64(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of the model entirely in float64; transformers' norm would round to float32 internally."""
    exact = copy.deepcopy(model).double()
    for name, module in list(exact.named_modules()):
        if type(module).__name__ == "Qwen2RMSNorm":
            norm = torch.nn.RMSNorm(module.weight.shape[0], eps=module.variance_epsilon, dtype=torch.float64)
            norm.weight = module.weight
            parent, _, child = name.rpartition(".")
            setattr(exact.get_submodule(parent), child, norm)
    return exact


def deviation(gradient: Gradient, reference: Gradient) -> float:
    """The largest difference of an element, as a share of the largest element of the reference."""
    largest = max(float(wanted.abs().max()) for wanted in reference.values())
    return max(float((gradient[name] - wanted).abs().max()) for name, wanted in reference.items()) / largest
