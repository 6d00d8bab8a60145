"""Agreement with verl 0.9.1 wherever its numbers are right."""

import pytest
import torch

from skyrl_core.contract.reduction import count_batch, token_weights, weighted_sum
from skyrl_core.maths.kl import kl_estimate, kl_loss
from skyrl_core.maths.off_policy import OffPolicyCorrection

pytestmark = pytest.mark.peers

TOLERANCE = 1e-7  # verl adds 1e-8 to the lengths that it divides by
NEVER = 1e9  # a dual clip or a truncation that does not bind
CLIP = {"clip_ratio_low": 0.2, "clip_ratio_high": 0.28}
OURS = {"clip_low": 0.2, "clip_high": 0.28}
REDUCTIONS = {
    "token-mean": {"loss_reduction": "token_mean"},
    "seq-mean-token-mean": {"loss_reduction": "sequence_mean"},
    "seq-mean-token-sum": {"loss_reduction": "sequence_sum"},
    "seq-mean-token-sum-norm": {"loss_reduction": "sequence_sum_norm", "max_length": 9},
}


@pytest.mark.parametrize("mode", REDUCTIONS)
@pytest.mark.parametrize("clip_ratio_c", [1.4, 3.0, NEVER])
def test_vanilla_is_dual_clip_under_each_reduction(verl, ours, agree, sample, mode, clip_ratio_c) -> None:
    config = CLIP | {"clip_ratio_c": clip_ratio_c, "loss_agg_mode": mode}
    theirs = verl("policy_loss", mode="vanilla", **sample.policy, config=config, batch_info={"loss_scale_factor": 9})
    params = OURS | {"clip_ratio_c": None if clip_ratio_c == NEVER else clip_ratio_c}
    agree(theirs, ours("dual_clip", sample, params, **REDUCTIONS[mode]), TOLERANCE)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("mode", REDUCTIONS)
def test_reductions_over_micro_batches_and_ranks(verl, sample, mode, ranks) -> None:
    # FSDP averages over the ranks what verl multiplies by their number.
    info = {
        "dp_size": ranks,
        "batch_num_tokens": int(sample.mask.sum()),
        "global_batch_size": len(sample.mask),
        "loss_scale_factor": 9,
    }
    values, parts = sample.log_probs, [(0, 1), (1, 4), (4, 6)]
    theirs = [verl("aggregate", values=values[a:b], mask=sample.mask[a:b], mode=mode, **info) for a, b in parts]
    settings = dict(REDUCTIONS[mode])
    weights = token_weights(
        sample.mask,
        settings.pop("loss_reduction"),
        count_batch(sample.mask),
        dtype=torch.float64,
        **settings,
    )
    gradient = torch.cat([part["gradient"] for part in theirs]) / ranks
    torch.testing.assert_close(gradient, weights, rtol=TOLERANCE, atol=TOLERANCE)
    total = weighted_sum(values, weights, sample.mask).item()
    assert sum(part["loss"] for part in theirs) / ranks == pytest.approx(total, rel=TOLERANCE)


@pytest.mark.parametrize(("low", "high"), [(0.3, 0.5), (1.0, 4.0)])
def test_cispo(verl, ours, agree, sample, low, high) -> None:
    config = {"clip_ratio_low": low, "clip_ratio_high": high}
    theirs = verl("policy_loss", mode="cispo", **sample.policy, config=config)
    agree(theirs, ours("cispo", sample, {"clip_low": low, "clip_high": high}), TOLERANCE)


@pytest.mark.parametrize(("mode", "reduction"), [("seq-mean-token-mean", None), ("token-mean", "token_mean")])
def test_gspo_token(verl, ours, agree, sample, mode, reduction) -> None:
    config = {"clip_ratio_low": 0.1, "clip_ratio_high": 0.15, "loss_agg_mode": mode}
    theirs = verl("policy_loss", mode="gspo", **sample.policy, config=config)
    agree(theirs, ours("gspo", sample, {"clip_low": 0.1, "clip_high": 0.15}, loss_reduction=reduction), TOLERANCE)


def test_sapo(verl, ours, agree, sample) -> None:
    theirs = verl("policy_loss", mode="sapo", **sample.policy, config={"tau_pos": 0.8, "tau_neg": 1.3})
    agree(theirs, ours("sapo", sample, {"tau_pos": 0.8, "tau_neg": 1.3}), TOLERANCE)


def test_gpg_is_reinforce(verl, ours, agree, sample) -> None:
    agree(verl("policy_loss", mode="gpg", **sample.policy), ours("reinforce", sample), TOLERANCE)


def test_dro(verl, ours, agree, sample) -> None:
    theirs = verl("policy_loss", mode="dro", **sample.policy, policy_loss={"dro_beta": 0.7})
    agree(theirs, ours("dro", sample, {"beta": 0.7}), TOLERANCE)


def test_geo_mean_of_one_whole_batch_is_gmpo(verl, ours, agree, outcome_sample) -> None:
    config = {"clip_ratio_low": 0.3, "clip_ratio_high": 0.4}
    theirs = verl("policy_loss", mode="geo_mean", **outcome_sample.policy, config=config)
    agree(theirs, ours("gmpo", outcome_sample, {"clip_low": 0.3, "clip_high": 0.4}), TOLERANCE)


def test_clip_cov_that_drops_every_candidate(verl, ours, agree, sample) -> None:
    # With a share of 1 nothing is random.
    cov = {"clip_cov_ratio": 1.0, "clip_cov_lb": 0.1, "clip_cov_ub": 5.0}
    theirs = verl("policy_loss", mode="clip_cov", **sample.policy, config=CLIP, policy_loss=cov)
    assert theirs["metrics"]["actor/pg_clipfrac"] > 0.05
    agree(theirs, ours("clip_cov", sample, OURS | cov), TOLERANCE)


def test_kl_cov(verl, ours, agree, sample) -> None:
    theirs = verl("policy_loss", mode="kl_cov", **sample.policy, policy_loss={"kl_cov_ratio": 0.3, "ppo_kl_coef": 0.5})
    agree(theirs, ours("kl_cov", sample, {"kl_cov_frac": 0.3, "ppo_kl_coef": 0.5}), TOLERANCE)


@pytest.mark.parametrize("kind", ["tv", "kl"])
def test_dppo_without_truncation_has_the_same_gradient(verl, ours, agree, sample, kind) -> None:
    # verl: -sg(r) A log pi, ours: -r A. The values differ and only the gradient is meaningful.
    config = {"clip_ratio_low": 0.05, "clip_ratio_high": 0.08, "clip_ratio_c": NEVER}
    theirs = verl("policy_loss", mode=f"dppo_{kind}", **sample.policy, config=config)
    assert 0.1 < theirs["metrics"]["actor/pg_clipfrac"] < 0.9
    params = {"kind": f"binary_{kind}", "anchor": "old", "delta_low": 0.05, "delta_high": 0.08}
    agree(theirs, ours("dppo", sample, params), TOLERANCE, value=False)


def test_weighted_vanilla_is_decoupled_ppo(verl, ours, agree, sample) -> None:
    weights = (sample.old_log_probs - sample.rollout_log_probs).exp()
    config = CLIP | {"clip_ratio_c": NEVER}
    theirs = verl("policy_loss", mode="vanilla", **sample.policy, config=config, weights=weights)
    agree(theirs, ours("decoupled_ppo", sample, OURS | {"behave_cap": None}), TOLERANCE)


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize(
    ("threshold", "outside", "low", "high"), [(1.2, "truncate", 0.0, 1.2), ("0.7_1.2", "mask", 0.7, 1.2)]
)
def test_weights_of_the_off_policy_correction(verl, sample, level, threshold, outside, low, high) -> None:
    log_ratio = sample.old_log_probs - sample.rollout_log_probs
    theirs = verl("correction_weights", log_ratio=log_ratio, mask=sample.mask, level=level, threshold=threshold)
    correction = OffPolicyCorrection(weight=level, outside=outside, low=low, high=high)
    ours = correction.factors(sample.old_log_probs, sample.rollout_log_probs, sample.mask)
    assert ((ours == high) | (ours == 0)).any()
    torch.testing.assert_close(torch.where(sample.mask, theirs, 0.0), ours, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("kind", ["k1", "abs", "k2", "k3"])
def test_kl_estimators_have_the_same_values(verl, sample, kind) -> None:
    theirs = verl("kl", log_probs=sample.log_probs, ref_log_probs=sample.ref_log_probs, kind=kind)
    ours = kl_estimate(sample.log_probs, sample.ref_log_probs, kind)
    torch.testing.assert_close(theirs["values"], ours, rtol=TOLERANCE, atol=1e-12)


@pytest.mark.parametrize(("theirs", "ours"), [("k2", "k2"), ("k3", "k3"), ("k3+", "k2"), ("k1+", "k2"), ("abs", "abs")])
def test_kl_losses_have_the_same_gradient(verl, sample, theirs, ours) -> None:
    # "+" is the value of one estimator with the gradient of k2.
    gradient = verl("kl", log_probs=sample.log_probs, ref_log_probs=sample.ref_log_probs, kind=theirs)["gradient"]
    log_probs = sample.log_probs.clone().requires_grad_()
    kl_loss(log_probs, sample.ref_log_probs, ours).sum().backward()
    torch.testing.assert_close(gradient, log_probs.grad, rtol=TOLERANCE, atol=1e-12)


REWARDS = torch.tensor([1.0, 0.0, 0.25, 2.0, 0.5, 0.7], dtype=torch.float64)


@pytest.mark.parametrize(
    ("theirs", "config", "name", "params"),
    [
        ("grpo", {}, "grpo", {}),
        ("grpo", {"norm_adv_by_std_in_grpo": False}, "dr_grpo", {}),
        ("grpo_vectorized", {}, "grpo", {}),
        ("rloo", {}, "rloo", {}),
        ("rloo_vectorized", {}, "rloo", {}),
        ("opo", {}, "opo", {}),
        ("grpo_passk", {"norm_adv_by_std_in_grpo": False}, "pass_at_k", {}),
    ],
)
def test_advantages(verl, our_advantages, at_the_end, sample, theirs, config, name, params) -> None:
    rewards = at_the_end(REWARDS, sample.mask)
    expected = verl(
        "advantages", name=theirs, token_rewards=rewards, mask=sample.mask, groups=sample.groups, config=config
    )
    ours = our_advantages(name, REWARDS, sample.groups, sample.mask, params)
    torch.testing.assert_close(expected, ours, rtol=1e-6, atol=1e-6)


def whitened_by_verl(advantages, mask):
    """Theirs divide by the unbiased standard deviation over all tokens, ours by the population one."""
    tokens = int(mask.sum())
    return advantages * (tokens / (tokens - 1)) ** 0.5


@pytest.mark.parametrize(
    ("theirs", "baseline"), [("reinforce_plus_plus", False), ("reinforce_plus_plus_baseline", True)]
)
def test_reinforce_pp_but_for_the_kind_of_standard_deviation(
    verl, our_advantages, at_the_end, sample, theirs, baseline
) -> None:
    rewards = at_the_end(REWARDS, sample.mask)
    expected = verl("advantages", name=theirs, token_rewards=rewards, mask=sample.mask, groups=sample.groups)
    ours = our_advantages("reinforce_pp", REWARDS, sample.groups, sample.mask, {"baseline": baseline})
    torch.testing.assert_close(whitened_by_verl(expected, sample.mask), ours, rtol=1e-6, atol=1e-6)


def test_gae_but_for_the_kind_of_standard_deviation(verl, our_advantages, at_the_end, sample) -> None:
    values = sample.ref_log_probs
    token_rewards = at_the_end(REWARDS, sample.mask)
    expected = verl("gae", token_rewards=token_rewards, values=values, mask=sample.mask, gamma=0.9, lam=0.8)
    expected = torch.where(sample.mask, whitened_by_verl(expected, sample.mask), 0.0)
    ours = our_advantages("gae", REWARDS, sample.groups, sample.mask, {"gamma": 0.9, "lam": 0.8}, values=values)
    torch.testing.assert_close(expected, ours, rtol=1e-6, atol=1e-6)
