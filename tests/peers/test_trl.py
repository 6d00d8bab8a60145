"""Agreement with TRL 1.16.0 wherever its numbers are right."""

import pytest
import torch

from skyrl_core.maths.kl import kl_loss

pytestmark = pytest.mark.peers

EXACT = 1e-12
FLOAT32 = 1e-6  # TRL's SAPO keeps its temperatures in float32
PPO = {"clip_ratio_c": None, "clip_low": 0.2, "clip_high": 0.28}
CLIP = {"epsilon": 0.2, "epsilon_high": 0.28}


@pytest.mark.parametrize(
    ("loss_type", "settings", "config"),
    [
        ("dapo", {"loss_reduction": "token_mean"}, {}),
        ("bnpo", {"loss_reduction": "token_mean"}, {}),
        ("grpo", {"loss_reduction": "sequence_mean"}, {}),
        ("dr_grpo", {"loss_reduction": "sequence_sum_norm", "max_length": 9}, {"max_completion_length": 9}),
    ],
)
def test_ppo_clip_under_each_reduction(trl, ours, agree, sample, loss_type, settings, config) -> None:
    theirs = trl("policy_loss", **sample.policy, config={"loss_type": loss_type, **CLIP, **config})
    agree(theirs, ours("dual_clip", sample, PPO, **settings), EXACT)


def test_delta_is_dual_clip(trl, ours, agree, sample) -> None:
    # A delta above 1 + clip_high never binds where A > 0, and bounds the loss by delta |A| where A < 0.
    theirs = trl("policy_loss", **sample.policy, config={"loss_type": "dapo", "delta": 1.6, **CLIP})
    agree(theirs, ours("dual_clip", sample, PPO | {"clip_ratio_c": 1.6}), EXACT)


def test_gspo(trl, ours, agree, outcome_sample) -> None:
    config = {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.1, "epsilon_high": 0.15}
    theirs = trl("policy_loss", **outcome_sample.policy, config=config)
    params = {"clip_low": 0.1, "clip_high": 0.15, "level": "sequence"}
    agree(theirs, ours("gspo", outcome_sample, params), EXACT)


def test_luspo(trl, ours, agree, outcome_sample) -> None:
    config = {"loss_type": "luspo", "importance_sampling_level": "sequence", "epsilon": 0.1, "epsilon_high": 0.15}
    theirs = trl("policy_loss", **outcome_sample.policy, config=config)
    agree(theirs, ours("luspo", outcome_sample, {"clip_low": 0.1, "clip_high": 0.15}), EXACT)


def test_cispo_with_the_bound_that_means_the_same(trl, ours, agree, sample) -> None:
    theirs = trl("policy_loss", **sample.policy, config={"loss_type": "cispo", "epsilon_high": 1.5})
    agree(theirs, ours("cispo", sample, {"clip_low": 1.0, "clip_high": 0.5}), EXACT)


def test_sapo(trl, ours, agree, sample) -> None:
    config = {"loss_type": "sapo", "sapo_temperature_pos": 0.8, "sapo_temperature_neg": 1.3}
    theirs = trl("policy_loss", **sample.policy, config=config)
    agree(theirs, ours("sapo", sample, {"tau_pos": 0.8, "tau_neg": 1.3}), FLOAT32)


def test_vespo(trl, ours, agree, sample) -> None:
    theirs = trl("policy_loss", **sample.policy, config={"loss_type": "vespo"})
    agree(theirs, ours("vespo", sample.but(rollout_log_probs=sample.old_log_probs)), EXACT)


def test_vespo_with_the_weights_of_the_rollout_engine(trl, ours, agree, sample) -> None:
    # TRL multiplies pi / pi_old by pi_old / mu of every token; ours divides by mu directly.
    ratio = torch.where(sample.mask, sample.old_log_probs - sample.rollout_log_probs, 0.0).exp()
    theirs = trl("policy_loss", **sample.policy, config={"loss_type": "vespo"}, importance_sampling_ratio=ratio)
    agree(theirs, ours("vespo", sample), EXACT)


def test_gmpo(trl, ours, agree, outcome_sample) -> None:
    theirs = trl(
        "policy_loss",
        kind="gmpo",
        **outcome_sample.policy | {"advantages": outcome_sample.advantages[:, 0].contiguous()},
        config={"epsilon": 0.3, "epsilon_high": 0.4},
    )
    agree(theirs, ours("gmpo", outcome_sample, {"clip_low": 0.3, "clip_high": 0.4}), EXACT)


def test_k3_as_a_loss(trl, agree, sample) -> None:
    def theirs(beta: float):
        config = {"loss_type": "dapo", "beta": beta, "use_bias_correction_kl": False}
        return trl("policy_loss", **sample.policy, config=config, ref_per_token_logps=sample.ref_log_probs)

    log_probs = sample.log_probs.clone().requires_grad_()
    kl = kl_loss(log_probs, sample.ref_log_probs, "k3")[sample.mask].mean()
    kl.backward()
    with_kl, without = theirs(0.5), theirs(0.0)
    term = {"loss": with_kl["loss"] - without["loss"], "gradient": with_kl["gradient"] - without["gradient"]}
    agree(term, {"loss": 0.5 * kl.item(), "gradient": 0.5 * log_probs.grad}, EXACT)


@pytest.mark.parametrize(
    ("kind", "config", "name", "params"),
    [
        ("grpo", {"scale_rewards": "group"}, "grpo", {"epsilon": 1e-4}),
        ("grpo", {"scale_rewards": "none"}, "dr_grpo", {}),
        ("rloo", {"beta": 0.0}, "rloo", {}),
    ],
)
def test_advantages_of_real_completions(trl, our_advantages, kind, config, name, params) -> None:
    rewards = torch.tensor([1.0, 0.0, 0.25, 1.0, 0.5, 0.5, 0.5, 3.0])
    theirs = trl("advantages", rewards=rewards, group_size=4, kind=kind, config=config)
    groups, mask = torch.arange(8) // 4, torch.ones(8, 1, dtype=torch.bool)
    torch.testing.assert_close(theirs, our_advantages(name, rewards, groups, mask, params)[:, 0], rtol=1e-6, atol=1e-6)


def test_corrected_k3_pulls_like_k2(trl, expected_kl_gradient) -> None:
    # TRL's default multiplies k3 by the ratio; its expected gradient is that of the reverse KL, as is that of our k2.
    def theirs(policy, reference):
        row = {"log_probs": policy[None], "old_log_probs": policy[None], "ref_per_token_logps": reference[None]}
        rows = {name: tensor.expand(2, -1).contiguous() for name, tensor in row.items()}
        still = torch.zeros_like(rows["log_probs"])
        batch = {"advantages": still, "mask": torch.ones_like(still, dtype=torch.bool)}
        result = trl("policy_loss", **rows, **batch, config={"loss_type": "dapo", "beta": 1.0}, num_items=1)
        return result["gradient"][0]

    def ours(policy, reference):
        policy = policy.clone().requires_grad_()
        kl_loss(policy, reference, "k2").sum().backward()
        return policy.grad

    pulls = [expected_kl_gradient(kl) for kl in (theirs, ours)]
    for pull in pulls:
        torch.testing.assert_close(pull["estimate"], pull["reverse"], rtol=1e-10, atol=1e-12)
