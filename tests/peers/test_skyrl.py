"""Agreement with SkyRL 0.3.0 wherever its numbers are right."""

import pytest
import torch

from skyrl_core.maths.kl import kl_estimate, kl_loss
from skyrl_core.maths.off_policy import OffPolicyCorrection

pytestmark = pytest.mark.peers

TOLERANCE = 1e-6  # SkyRL computes ratios in float32
CLIP = {"eps_clip_low": 0.2, "eps_clip_high": 0.28}
OURS = {"clip_low": 0.2, "clip_high": 0.28}


@pytest.mark.parametrize(
    ("reduction", "arguments", "settings"),
    [
        ("token_mean", {}, {"loss_reduction": "token_mean"}),
        ("sequence_mean", {}, {"loss_reduction": "sequence_mean"}),
        ("seq_mean_token_sum_norm", {"max_seq_len": 9}, {"loss_reduction": "sequence_sum_norm", "max_length": 9}),
        ("prompt_mean", {"prompt_boundaries": [(0, 2), (2, 4), (4, 6)]}, {"loss_reduction": "prompt_mean"}),
    ],
)
def test_regular_is_ppo_clip_under_each_reduction(skyrl, ours, agree, sample, reduction, arguments, settings) -> None:
    theirs = skyrl("policy_loss", name="regular", **sample.policy, config=CLIP, reduction=reduction, **arguments)
    agree(theirs, ours("dual_clip", sample, OURS | {"clip_ratio_c": None}, **settings), TOLERANCE)


def test_dual_clip(skyrl, ours, agree, sample) -> None:
    config = CLIP | {"clip_ratio_c": 1.4}
    theirs = skyrl("policy_loss", name="dual_clip", **sample.policy, config=config, reduction="token_mean")
    agree(theirs, ours("dual_clip", sample, OURS | {"clip_ratio_c": 1.4}), TOLERANCE)


def test_cispo_with_bounds_that_are_given(skyrl, ours, agree, sample) -> None:
    config = {"cispo": {"cispo_eps_clip_low": 0.3, "cispo_eps_clip_high": 0.5}}
    theirs = skyrl("policy_loss", name="cispo", **sample.policy, config=config, reduction="token_mean")
    agree(theirs, ours("cispo", sample, {"clip_low": 0.3, "clip_high": 0.5}), TOLERANCE)


def test_gspo_token(skyrl, ours, agree, sample) -> None:
    config = {"eps_clip_low": 0.1, "eps_clip_high": 0.15}
    theirs = skyrl("policy_loss", name="gspo", **sample.policy, config=config, reduction="sequence_mean")
    agree(theirs, ours("gspo", sample, {"clip_low": 0.1, "clip_high": 0.15}), TOLERANCE)


def test_sapo(skyrl, ours, agree, sample) -> None:
    config = {"sapo": {"tau_pos": 0.8, "tau_neg": 1.3}}
    theirs = skyrl("policy_loss", name="sapo", **sample.policy, config=config, reduction="sequence_mean")
    agree(theirs, ours("sapo", sample, {"tau_pos": 0.8, "tau_neg": 1.3}), TOLERANCE)


def test_importance_sampling_against_the_old_policy(skyrl, ours, agree, sample) -> None:
    theirs = skyrl("policy_loss", name="importance_sampling", **sample.policy, reduction="token_mean")
    agree(theirs, ours("importance_sampling", sample, {"anchor": "old"}), TOLERANCE)
    agree(theirs, ours("standard", sample), TOLERANCE)


@pytest.mark.parametrize("kind", ["binary_tv", "binary_kl"])
def test_dppo(skyrl, ours, agree, sample, kind) -> None:
    bounds = {"delta_low": 0.05, "delta_high": 0.08}
    theirs = skyrl(
        "policy_loss",
        name="dppo",
        **sample.policy,
        config={"dppo": {"dppo_type": kind, **bounds}},
        reduction="token_mean",
        rollout_log_probs=sample.rollout_log_probs,
    )
    assert 0.1 < theirs["metrics"]["clip_ratio"] < 0.9
    agree(theirs, ours("dppo", sample, {"kind": kind, **bounds}), TOLERANCE)


def test_rollout_is_has_the_gradient_of_icepop_with_its_band(skyrl, ours, agree, sample) -> None:
    # SkyRL: -sg(r) A log pi, ours: -r A. The values differ and only the gradient is meaningful.
    theirs = skyrl(
        "policy_loss",
        name="rollout_is",
        **sample.policy,
        config={"eps_clip_low": 0.4, "eps_clip_high": 0.5},
        reduction="token_mean",
        rollout_log_probs=sample.rollout_log_probs,
    )
    assert 0.1 < theirs["metrics"]["clip_ratio"] < 0.9
    agree(theirs, ours("icepop", sample, {"ratio_low": 0.6, "ratio_high": 1.5}), TOLERANCE, value=False)


def test_token_weights_and_token_mask_are_decoupled_ppo(skyrl, ours, agree, sample) -> None:
    # The mask drops tokens above the cap, so the weight is never truncated. Dropped tokens still count.
    correction = {
        "tis_ratio_type": "token",
        "token_tis_ratio_clip_high": 1.3,
        "token_mask_is_threshold_low": 0.0,
        "token_mask_is_threshold_high": 1.3,
    }
    theirs = skyrl(
        "policy_loss",
        name="regular",
        **sample.policy,
        config=CLIP | {"off_policy_correction": correction},
        reduction="token_mean",
        rollout_log_probs=sample.rollout_log_probs,
    )
    assert theirs["metrics"]["token_mask_ratio"] > 0.1
    agree(theirs, ours("decoupled_ppo", sample, OURS | {"behave_cap": 1.3}), TOLERANCE)


@pytest.mark.parametrize(
    ("config", "correction"),
    [
        (
            {"tis_ratio_type": "token", "token_tis_ratio_clip_high": 1.2},
            OffPolicyCorrection(weight="token", high=1.2),
        ),
        (
            {"tis_ratio_type": "sequence", "sequence_tis_ratio_clip_high": 1.2},
            OffPolicyCorrection(weight="sequence", high=1.2),
        ),
        (
            {"sequence_mask_metric": "geometric", "geo_mask_low": 0.9, "geo_mask_high": 1.2},
            OffPolicyCorrection(band="geometric", band_low=0.9, band_high=1.2),
        ),
        (
            {"sequence_mask_metric": "product", "product_mask_low": 0.5, "product_mask_high": 2.0},
            OffPolicyCorrection(band="product", band_low=0.5, band_high=2.0),
        ),
        (
            {"outlier_token_is_threshold_low": 0.5, "outlier_token_is_threshold_high": 2.0},
            OffPolicyCorrection(band="token", band_low=0.5, band_high=2.0),
        ),
    ],
)
def test_off_policy_correction(skyrl, sample, config, correction) -> None:
    # The gradient of importance_sampling is -r A / tokens; with "regular" and no clip the factor multiplies it.
    plain = {"eps_clip_low": 1.0, "eps_clip_high": 1e9}
    uncorrected, corrected = (
        skyrl(
            "policy_loss",
            name="regular",
            **sample.policy,
            config=plain | {"off_policy_correction": chosen},
            reduction="token_mean",
            rollout_log_probs=sample.rollout_log_probs,
        )["gradient"]
        for chosen in ({}, config)
    )
    factors = correction.factors(sample.old_log_probs, sample.rollout_log_probs, sample.mask)
    assert not torch.equal(factors, sample.mask.to(factors.dtype))
    torch.testing.assert_close(corrected, uncorrected * factors, rtol=TOLERANCE, atol=TOLERANCE)


def times_tokens(result, sample):
    tokens = int(sample.mask.sum())
    return {"loss": result["loss"] * tokens, "gradient": result["gradient"] * tokens}


def test_cross_entropy_is_the_sum_over_tokens(skyrl, ours, agree, sample) -> None:
    theirs = skyrl("policy_loss", name="cross_entropy", **sample.policy)
    agree(theirs, times_tokens(ours("cross_entropy", sample), sample), TOLERANCE)


def test_clip_cov_on_advantages_that_are_not_scaled(skyrl, ours, agree, sample) -> None:
    # With a share of 1 nothing is random.
    bounds = {"clip_cov_lb": 0.1, "clip_cov_ub": 5.0}
    config = CLIP | {"clip_cov": {"clip_ratio": 1.0, **bounds}}
    theirs = skyrl("policy_loss", name="clip_cov", **sample.policy, config=config)
    assert theirs["metrics"]["clip_ratio"] > 0.05
    agree(theirs, times_tokens(ours("clip_cov", sample, OURS | bounds | {"clip_cov_ratio": 1.0}), sample), TOLERANCE)


def test_kl_cov_on_advantages_that_are_not_scaled(skyrl, ours, agree, sample) -> None:
    params = {"kl_cov_frac": 0.3, "ppo_kl_coef": 0.5}
    theirs = skyrl("policy_loss", name="kl_cov", **sample.policy, config={"kl_cov": params})
    agree(theirs, times_tokens(ours("kl_cov", sample, params), sample), TOLERANCE)


@pytest.mark.parametrize("kind", ["k1", "abs", "k2", "k3"])
def test_kl_estimators(skyrl, sample, kind) -> None:
    theirs = skyrl("kl", log_probs=sample.log_probs, ref_log_probs=sample.ref_log_probs, kind=kind)
    ours = kl_estimate(sample.log_probs, sample.ref_log_probs, kind)
    torch.testing.assert_close(theirs["values"], ours, rtol=1e-9, atol=1e-12)
    if kind != "k1":  # which ours refuses as a loss
        log_probs = sample.log_probs.clone().requires_grad_()
        kl_loss(log_probs, sample.ref_log_probs, kind).sum().backward()
        torch.testing.assert_close(theirs["gradient"], log_probs.grad, rtol=1e-9, atol=1e-12)


REWARDS = torch.tensor([1.0, 0.0, 0.25, 2.0, 0.5, 0.7], dtype=torch.float64)


@pytest.mark.parametrize(
    ("theirs", "arguments", "name"),
    [
        ("grpo", {}, "grpo"),
        ("grpo", {"grpo_norm_by_std": False}, "dr_grpo"),
        ("rloo", {}, "rloo"),
        ("maxrl", {}, "maxrl"),
    ],
)
def test_advantages(skyrl, our_advantages, at_the_end, sample, theirs, arguments, name) -> None:
    rewards = at_the_end(REWARDS, sample.mask)
    expected = skyrl(
        "advantages", name=theirs, token_rewards=rewards, mask=sample.mask, groups=sample.groups, **arguments
    )
    # SkyRL adds 1e-6 to the mean that MaxRL divides by.
    tolerance = 1e-5 if name == "maxrl" else 1e-6
    ours = our_advantages(name, REWARDS, sample.groups, sample.mask)
    torch.testing.assert_close(expected, ours, rtol=tolerance, atol=tolerance)


def without_gaps(sample):
    return torch.arange(sample.mask.shape[1]) < sample.mask.sum(-1, keepdim=True)


def whitened_by_skyrl(advantages, mask):
    """Theirs divide by the unbiased standard deviation over all tokens, ours by the population one."""
    tokens = int(mask.sum())
    return torch.where(mask, advantages * (tokens / (tokens - 1)) ** 0.5, 0.0)


def test_reinforce_pp_but_for_the_kind_of_standard_deviation(skyrl, our_advantages, at_the_end, sample) -> None:
    mask = without_gaps(sample)
    rewards = at_the_end(REWARDS, mask)
    theirs = skyrl("advantages", name="reinforce++", token_rewards=rewards, mask=mask, groups=sample.groups)
    ours = our_advantages("reinforce_pp", REWARDS, sample.groups, mask)
    torch.testing.assert_close(whitened_by_skyrl(theirs, mask), ours, rtol=1e-6, atol=1e-6)


def test_gae_but_for_the_kind_of_standard_deviation(skyrl, our_advantages, at_the_end, sample) -> None:
    mask = without_gaps(sample)
    values = torch.where(mask, sample.ref_log_probs, 0.0)
    theirs = skyrl(
        "advantages",
        name="gae",
        token_rewards=at_the_end(REWARDS, mask),
        mask=mask,
        groups=sample.groups,
        values=values,
        gamma=0.9,
        lambd=0.8,
    )
    ours = our_advantages("gae", REWARDS, sample.groups, mask, {"gamma": 0.9, "lam": 0.8}, values=values)
    torch.testing.assert_close(whitened_by_skyrl(theirs, mask), ours, rtol=1e-6, atol=1e-6)
