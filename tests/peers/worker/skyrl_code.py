"""The losses, estimators and reductions of SkyRL, called as SkyRL calls them. Only SkyRL's code computes here.

`skyrl.backends/__init__` imports the Tinker API, which this Python or pydantic may refuse; an empty package in its
place lets the modules below it be imported as they are.
"""

import importlib.util
import sys
import types

import numpy as np
from omegaconf import OmegaConf

_backends = types.ModuleType("skyrl.backends")
_backends.__path__ = [f"{importlib.util.find_spec('skyrl').submodule_search_locations[0]}/backends"]
sys.modules["skyrl.backends"] = _backends

from skyrl.backends.skyrl_train.utils import ppo_utils as MODULE  # noqa: E402 - after the stand-ins
from skyrl.train.config import AlgorithmConfig  # noqa: E402 - likewise


def _algorithm(name, config):
    return AlgorithmConfig.from_dict_config(OmegaConf.create({"policy_loss_type": name, **(config or {})}))


def scaled(advantages, mask, reduction, **arguments):
    """The advantages with the weights of the reduction in them, as the trainer passes them to every loss."""
    settings = {"micro_batch_size": len(mask), "max_seq_len": 0} | arguments
    return MODULE.apply_loss_reduction_to_advantages_minibatch(advantages, mask, reduction, **settings)


def policy_loss(
    name, log_probs, old_log_probs, advantages, mask, config=None, reduction=None, rollout_log_probs=None, **arguments
):
    """As the worker calls it; with a reduction, on advantages that are scaled as in the trainer."""
    algorithm = _algorithm(name, config)
    mask = mask.to(log_probs.dtype)
    if reduction:
        advantages = scaled(advantages, mask, reduction, **arguments)
    log_probs = log_probs.clone().requires_grad_()
    loss, metrics = MODULE.PolicyLossRegistry.get(name)(
        log_probs,
        old_log_probs,
        advantages,
        config=algorithm,
        loss_mask=mask,
        rollout_logprobs=rollout_log_probs,
    )
    loss.backward()
    return {"loss": loss.item(), "gradient": log_probs.grad, "metrics": metrics}


def defaults():
    """The default configuration of SkyRL."""
    algorithm = AlgorithmConfig()
    return {
        "cispo": (algorithm.cispo.cispo_eps_clip_low, algorithm.cispo.cispo_eps_clip_high),
        "loss_reduction": algorithm.loss_reduction,
        "kl_estimator_type": algorithm.kl_estimator_type,
        "kl_cov_frac": algorithm.kl_cov.kl_cov_frac,
        "gspo_clip": (algorithm.eps_clip_low, algorithm.eps_clip_high),
    }


def advantages(name, token_rewards, mask, groups, **arguments):
    return MODULE.compute_advantages_and_returns(
        token_rewards.clone(),
        mask.to(token_rewards.dtype),
        np.array([str(group) for group in groups.tolist()]),
        name,
        AlgorithmConfig(),
        **arguments,
    )[0]


def kl(log_probs, ref_log_probs, kind):
    """Its values, and the gradient of their sum."""
    log_probs = log_probs.clone().requires_grad_()
    values = MODULE.compute_approx_kl(log_probs, ref_log_probs, kl_estimator_type=kind)
    values.sum().backward()
    return {"values": values.detach(), "gradient": log_probs.grad}
