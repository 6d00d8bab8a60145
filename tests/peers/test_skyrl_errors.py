"""Errors of SkyRL 0.3.0: each test runs its code, shows the wrong number, and checks ours by hand."""

import math

import pytest
import torch

from skyrl_core.contract.metric import Metric
from skyrl_core.maths.kl import kl_loss
from skyrl_core.maths.off_policy import OffPolicyCorrection

pytestmark = pytest.mark.peers


def test_skyrl_cispo_defaults_to_a_floor_of_one(skyrl, ours, tokens) -> None:
    # Offsets from 1 of 0 and 5: the interval [1, 6] instead of [0, 5].
    assert skyrl("defaults")["cispo"] == (0.0, 5.0)
    batch = tokens([[0.5, 5.5]])
    theirs = skyrl("policy_loss", name="cispo", **batch.policy, reduction="token_mean")
    assert theirs["gradient"].flatten().tolist() == pytest.approx([-1.0 / 2, -5.5 / 2])
    assert ours("cispo", batch)["gradient"].flatten().tolist() == pytest.approx([-0.5 / 2, -5.0 / 2])


def test_skyrl_clip_cov_never_chooses_a_token(skyrl, ours, agree, sample) -> None:
    # The mean is folded into the advantages beforehand, so covariances shrink by 1 / tokens, but not the bounds.
    steep = sample.but(advantages=sample.advantages * 10)
    bounds = {"clip_cov_lb": 1.0, "clip_cov_ub": 50.0}
    config = {"clip_cov": {"clip_ratio": 1.0, **bounds}}
    theirs = skyrl("policy_loss", name="clip_cov", **steep.policy, config=config, reduction="token_mean")
    plain = skyrl("policy_loss", name="regular", **steep.policy, reduction="token_mean")
    assert theirs["metrics"]["clip_ratio"] == 0.0
    agree(theirs, plain, 1e-6)

    # Ours: every token that is not clipped and whose covariance is in the band has no gradient.
    valid = steep.mask
    advantages, log_probs = steep.advantages[valid], steep.log_probs[valid]
    ratio = (log_probs - steep.old_log_probs[valid]).exp()
    covariance = (advantages - advantages.mean()) * (log_probs - log_probs.mean())
    clipped = ((ratio > 1.2) & (advantages > 0)) | ((ratio < 0.8) & (advantages < 0))
    chosen = (covariance > 1) & (covariance < 50) & ~clipped
    assert chosen.sum() == 2
    params = bounds | {"clip_cov_ratio": 1.0, "clip_low": 0.2, "clip_high": 0.2}
    gradient = ours("clip_cov", steep, params)["gradient"][valid]
    exact = torch.where(chosen | clipped, 0.0, -ratio * advantages / valid.sum())
    torch.testing.assert_close(gradient, exact, rtol=1e-12, atol=1e-12)


def test_skyrl_kl_cov_penalty_is_a_sum_where_the_loss_is_a_mean(skyrl, ours, tokens) -> None:
    # Four tokens of ratio 2 and no advantage: the mean of the penalty is log 2.
    batch = tokens([[2.0, 2.0], [2.0, 2.0]], advantages=0.0)
    config = {"kl_cov": {"kl_cov_frac": 1.0, "ppo_kl_coef": 1.0}}
    theirs = skyrl("policy_loss", name="kl_cov", **batch.policy, config=config, reduction="token_mean")
    assert theirs["loss"] == pytest.approx(4 * math.log(2))
    assert ours("kl_cov", batch, {"kl_cov_frac": 1.0})["loss"] == pytest.approx(math.log(2))


def test_skyrl_cross_entropy_ignores_the_reduction(skyrl, ours, tokens) -> None:
    # Each token has log-prob -1. The reduction travels in the advantages, which this loss does not read.
    batch = tokens([[1.0, 1.0], [1.0, None]])
    for reduction in ("token_mean", "sequence_mean"):
        theirs = skyrl("policy_loss", name="cross_entropy", **batch.policy, reduction=reduction)
        assert theirs["loss"] == pytest.approx(3.0)
    assert ours("cross_entropy", batch)["loss"] == pytest.approx(1.0)


def test_skyrl_importance_sampling_ignores_the_rollout_engine(skyrl, ours, tokens) -> None:
    # Its documentation names the sampling policy as the anchor; it always divides by the old policy.
    batch = tokens([[2.0]])
    batch = batch.but(rollout_log_probs=batch.old_log_probs - math.log(4))
    theirs = skyrl(
        "policy_loss",
        name="importance_sampling",
        **batch.policy,
        reduction="token_mean",
        rollout_log_probs=batch.rollout_log_probs,
    )
    assert theirs["gradient"].item() == pytest.approx(-2.0)
    assert ours("importance_sampling", batch)["gradient"].item() == pytest.approx(-8.0)


@pytest.mark.parametrize(("name", "our_name"), [("rollout_is", "icepop"), ("dppo", "dppo")])
def test_skyrl_corrects_twice_for_the_rollout_engine(skyrl, ours, tokens, name, our_name) -> None:
    # pi / mu = 1.1 is the entire correction; the truncated weight pi_old / mu = 1.1 is multiplied in again.
    batch = tokens([[1.0]], old=-5.0)
    batch = batch.but(rollout_log_probs=batch.old_log_probs - math.log(1.1))
    theirs = skyrl(
        "policy_loss",
        name=name,
        **batch.policy,
        config={"off_policy_correction": {"tis_ratio_type": "token"}},
        reduction="token_mean",
        rollout_log_probs=batch.rollout_log_probs,
    )
    assert theirs["gradient"].item() == pytest.approx(-(1.1**2))
    assert ours(our_name, batch)["gradient"].item() == pytest.approx(-1.1)


def test_skyrl_token_mask_with_one_bound_is_silently_off(skyrl, tokens) -> None:
    # pi_old / mu = 8, above the bound of 2 that was set.
    batch = tokens([[1.0]])
    batch = batch.but(rollout_log_probs=batch.old_log_probs - math.log(8))
    theirs = skyrl(
        "policy_loss",
        name="regular",
        **batch.policy,
        config={"off_policy_correction": {"token_mask_is_threshold_high": 2.0}},
        reduction="token_mean",
        rollout_log_probs=batch.rollout_log_probs,
    )
    assert theirs["gradient"].item() == pytest.approx(-1.0)
    correction = OffPolicyCorrection(weight="token", outside="mask", high=2.0)
    factors = correction.factors(batch.old_log_probs, batch.rollout_log_probs, batch.mask)
    assert factors.item() == 0.0


def test_skyrl_smallest_ratio_is_zero_wherever_there_is_padding(skyrl, tokens) -> None:
    batch = tokens([[1.0, None]])
    theirs = skyrl(
        "policy_loss",
        name="regular",
        **batch.policy,
        config={"off_policy_correction": {"tis_ratio_type": "token"}},
        reduction="token_mean",
        rollout_log_probs=batch.rollout_log_probs,
    )
    assert theirs["metrics"]["is_ratio_min"] == 0.0
    assert Metric.min((batch.old_log_probs - batch.rollout_log_probs).exp(), batch.mask).result() == 1.0


def test_skyrl_gspo_defaults_to_a_token_mean(skyrl, ours, tokens) -> None:
    # GSPO averages over sequences: lengths 1 and 3 count the same. SkyRL warns and continues.
    default = skyrl("defaults")["loss_reduction"]
    assert default == "token_mean"
    batch = tokens([[1.0, None, None], [1.0, 1.0, 1.0]])
    theirs = skyrl("policy_loss", name="gspo", **batch.policy, reduction=default)
    assert theirs["gradient"].sum(-1).tolist() == pytest.approx([-1 / 4, -3 / 4])
    assert ours("gspo", batch)["gradient"].sum(-1).tolist() == pytest.approx([-1 / 2, -1 / 2])


def test_skyrl_sequence_mean_counts_sequences_without_a_token(skyrl, ours, tokens) -> None:
    batch = tokens([[1.0, 1.0], [None, None]])
    theirs = skyrl("policy_loss", name="regular", **batch.policy, reduction="sequence_mean")
    assert theirs["loss"] == pytest.approx(-0.5)
    assert ours("dual_clip", batch, loss_reduction="sequence_mean")["loss"] == pytest.approx(-1.0)


def test_skyrl_lets_a_nan_out_of_a_masked_slot(skyrl, ours, tokens) -> None:
    batch = tokens([[1.0, None]])
    batch = batch.but(log_probs=torch.tensor([[-1.0, torch.nan]], dtype=torch.float64))
    theirs = skyrl("policy_loss", name="regular", **batch.policy, reduction="token_mean")
    assert math.isnan(theirs["loss"])
    result = ours("dual_clip", batch)
    assert (result["loss"], result["gradient"].tolist()) == (pytest.approx(-1.0), [[-1.0, 0.0]])


def test_skyrl_default_kl_loss_is_the_forward_kl(skyrl, expected_kl_gradient) -> None:
    default = skyrl("defaults")["kl_estimator_type"]
    assert default == "k3"
    pull = expected_kl_gradient(
        lambda policy, reference: skyrl("kl", log_probs=policy, ref_log_probs=reference, kind=default)["gradient"]
    )
    torch.testing.assert_close(pull["estimate"], pull["forward"], rtol=1e-10, atol=1e-12)
    assert (pull["estimate"] - pull["reverse"]).abs().max() > 0.01


def test_skyrl_k1_as_a_loss_pulls_nowhere(skyrl, expected_kl_gradient) -> None:
    pull = expected_kl_gradient(
        lambda policy, reference: skyrl("kl", log_probs=policy, ref_log_probs=reference, kind="k1")["gradient"]
    )
    torch.testing.assert_close(pull["estimate"], torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="k1"):
        kl_loss(torch.zeros(1), torch.zeros(1), "k1")


def test_skyrl_k3_has_no_pull_where_the_reference_is_far_likelier(skyrl) -> None:
    # exp(-x) - 1 + x at x = -3 is 16.1: cut to 10, without gradient. Its derivative is 1 - e^3.
    policy, reference = torch.tensor([[-4.0]], dtype=torch.float64), torch.tensor([[-1.0]], dtype=torch.float64)
    theirs = skyrl("kl", log_probs=policy, ref_log_probs=reference, kind="k3")
    assert (theirs["values"].item(), theirs["gradient"].item()) == (10.0, 0.0)
    policy.requires_grad_()
    kl_loss(policy, reference, "k3").sum().backward()
    assert policy.grad.item() == pytest.approx(1 - math.e**3)


def test_skyrl_gives_a_group_of_one_its_raw_reward(skyrl, our_advantages, at_the_end) -> None:
    # With one sample of a prompt, nothing shows whether 5 is a good reward for it.
    rewards, mask = torch.tensor([5.0, 1.0, 1.0], dtype=torch.float64), torch.ones(3, 2, dtype=torch.bool)
    batch = {"mask": mask, "groups": torch.tensor([0, 1, 1])}
    for name in ("grpo", "maxrl"):
        theirs = skyrl("advantages", name=name, token_rewards=at_the_end(rewards, mask), **batch)
        assert theirs[0].tolist() == pytest.approx([5.0, 5.0], rel=1e-5)
        assert our_advantages(name, rewards, **batch)[0].tolist() == [0.0, 0.0]


def test_skyrl_reinforce_pp_loses_the_reward_before_an_observation(skyrl, our_advantages, at_the_end) -> None:
    # Two samples that differ only in their reward, with a tool answer in the middle. The tokens before it get
    # the same return, 0, in both.
    mask = torch.tensor([[True, False, True]] * 2)
    rewards, groups = torch.tensor([1.0, -1.0], dtype=torch.float64), torch.tensor([0, 1])
    theirs = skyrl("advantages", name="reinforce++", token_rewards=at_the_end(rewards, mask), mask=mask, groups=groups)
    assert theirs[:, 0].tolist() == pytest.approx([0.0, 0.0])
    ours = our_advantages("reinforce_pp", rewards, groups, mask)
    # Returns 1, 1, -1, -1: mean 0, standard deviation 1
    assert ours.tolist() == [pytest.approx([1.0, 0.0, 1.0]), pytest.approx([-1.0, 0.0, -1.0])]


def test_skyrl_gae_takes_the_value_of_text_that_the_policy_did_not_write(skyrl, our_advantages, at_the_end) -> None:
    # Values 0 at all tokens of the policy; 9 at the answer of a tool between them, which the next step must not see.
    mask = torch.tensor([[True, False, True]] * 2)
    rewards, groups = torch.tensor([1.0, -1.0], dtype=torch.float64), torch.tensor([0, 1])
    values = torch.tensor([[0.0, 9.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    settings = {"token_rewards": at_the_end(rewards, mask), "mask": mask, "groups": groups, "values": values}
    theirs = skyrl("advantages", name="gae", **settings, gamma=1.0, lambd=0.0)
    # Lambda 0: r + V' - V. Theirs at the first token: V' = 9 for the first sample, so that it beats all others.
    assert theirs[0, 0] == theirs[mask].max()
    ours = our_advantages("gae", rewards, groups, mask, {"gamma": 1.0, "lam": 0.0}, values=values)
    # 0 and the reward: mean 0, standard deviation sqrt(1 / 2)
    first, second = [0.0, 0.0, math.sqrt(2)], [0.0, 0.0, -math.sqrt(2)]
    assert ours.tolist() == [pytest.approx(first), pytest.approx(second)]
