"""The losses, estimators and reductions of verl, called as verl calls them. Only verl's code computes here."""

import logging

import numpy as np
import torch
from omegaconf import OmegaConf
from verl.trainer.config import AlgoConfig
from verl.trainer.ppo import core_algos as MODULE
from verl.trainer.ppo.rollout_corr_helper import (
    apply_bypass_mode,
    compute_rollout_correction_weights,
    compute_rollout_rejection_mask,
)
from verl.workers.config import ActorConfig
from verl.workers.config.actor import PolicyLossConfig


def _actor_config(config, policy_loss=None, batch_info=None):
    actor = ActorConfig(
        strategy="fsdp",
        rollout_n=1,
        ppo_micro_batch_size_per_gpu=1,
        policy_loss=PolicyLossConfig(**(policy_loss or {})),
        **config,
    )
    actor.global_batch_info.update(batch_info or {})
    return actor


def policy_loss(
    mode, log_probs, old_log_probs, advantages, mask, config=None, policy_loss=None, batch_info=None, weights=None
):
    """As ppo_loss of verl/workers/utils/losses.py calls it: the reduction is that of the configuration."""
    actor = _actor_config(config or {}, policy_loss, batch_info)
    log_probs = log_probs.clone().requires_grad_()
    loss, metrics = MODULE.get_policy_loss_fn(mode)(
        old_log_prob=old_log_probs,
        log_prob=log_probs,
        advantages=advantages,
        response_mask=mask.to(bool),
        loss_agg_mode=actor.loss_agg_mode,
        config=actor,
        rollout_is_weights=weights,
    )
    loss.backward()
    return {"loss": loss.item(), "gradient": log_probs.grad, "metrics": metrics}


def defaults():
    """The default configuration of verl."""
    actor = _actor_config({})
    names = ("clip_ratio_c", "loss_agg_mode", "kl_loss_type", "clip_ratio_low", "clip_ratio_high")
    return {name: getattr(actor, name) for name in names} | {
        "ppo_kl_coef": actor.policy_loss.ppo_kl_coef,
        "dro_beta": actor.policy_loss.dro_beta,
    }


def aggregate(values, mask, mode, **batch_info):
    values = values.clone().requires_grad_()
    loss = MODULE.agg_loss(values, mask, mode, **batch_info)
    loss.backward()
    return {"loss": loss.item(), "gradient": values.grad}


def advantages(name, token_rewards, mask, groups, config=None):
    arguments = {
        "token_level_rewards": token_rewards.clone(),
        "response_mask": mask.to(token_rewards.dtype),
        "index": np.array([str(group) for group in groups.tolist()]),
        "config": AlgoConfig(**(config or {})),
    }
    if name in ("grpo", "grpo_vectorized"):
        arguments["norm_adv_by_std_in_grpo"] = arguments["config"].norm_adv_by_std_in_grpo
    if name in ("reinforce_plus_plus", "gae"):
        del arguments["index"]
    return MODULE.ADV_ESTIMATOR_REGISTRY[name](**arguments)[0]


def gae(token_rewards, values, mask, gamma, lam):
    return MODULE.compute_gae_advantage_return(token_rewards, values, mask.to(values.dtype), gamma, lam)[0]


def kl(log_probs, ref_log_probs, kind):
    """Its values, and the gradient of their sum."""
    log_probs = log_probs.clone().requires_grad_()
    values = MODULE.kl_penalty(log_probs, ref_log_probs, kind)
    values.sum().backward()
    return {"values": values.detach(), "gradient": log_probs.grad}


def rejection_mask(log_ratio, mask, option, threshold):
    return compute_rollout_rejection_mask(log_ratio, mask, rollout_rs=option, rollout_rs_threshold=threshold)[0]


def mode_after_bypass(loss_mode):
    """The loss that trains once bypass mode has been set up for a configuration with this loss."""

    class Batch:
        batch = {"rollout_log_probs": torch.zeros(1, 1)}

    config = OmegaConf.create({"loss_mode": loss_mode})
    apply_bypass_mode(Batch(), OmegaConf.create({}), config)
    return config.loss_mode


def losses():
    return sorted(MODULE.POLICY_LOSS_REGISTRY)


def log_level():
    return logging.getLogger().getEffectiveLevel()


def registered_twice():
    """Whether the second of two losses of one name silently replaces the first."""

    def first():
        return "first"

    def second():
        return "second"

    MODULE.register_policy_loss("of_two_authors")(first)
    MODULE.register_policy_loss("of_two_authors")(second)
    return MODULE.POLICY_LOSS_REGISTRY.pop("of_two_authors")()


def correction_weights(log_ratio, mask, level, threshold):
    return compute_rollout_correction_weights(log_ratio, mask, rollout_is=level, rollout_is_threshold=threshold)[0]
