"""Errors of verl 0.9.1: each test runs its code, shows the wrong number, and checks ours by hand."""

import math

import pytest
import torch

from skyrl_core.contract.reduction import count_batch, token_weights
from skyrl_core.errors import InvalidParamsError, PluginLoadError, UnknownPluginError
from skyrl_core.maths.kl import kl_loss
from skyrl_core.registry import loss_registry as registry
from skyrl_core.registry.loss_registry import load_policy_loss, register_policy_loss

pytestmark = pytest.mark.peers

LOGGED_BY_DEFAULT = 30  # logging.WARNING


def test_verl_geo_mean_grows_with_the_number_of_micro_batches(verl, ours_in_parts, outcome_sample) -> None:
    # Its trainer engine adds up the micro-batches without dividing; geo_mean returns a mean over its rows.
    info = {"dp_size": 1, "batch_num_tokens": int(outcome_sample.mask.sum()), "global_batch_size": 6}

    def theirs(rows: int) -> float:
        parts = [outcome_sample.rows(start, start + rows) for start in range(0, 6, rows)]
        return sum(verl("policy_loss", mode="geo_mean", **part.policy, batch_info=info)["loss"] for part in parts)

    # -A times the geometric mean of the ratios, each clipped on the side of its advantage
    log_ratio = outcome_sample.log_probs - outcome_sample.old_log_probs
    good = outcome_sample.advantages > 0
    clipped = torch.where(good, log_ratio.clamp(max=0.2), log_ratio.clamp(min=-0.2))
    means = torch.stack([row[mask].mean() for row, mask in zip(clipped, outcome_sample.mask, strict=True)])
    exact = -(outcome_sample.advantages[:, 0] * means.exp()).mean().item()
    assert theirs(6) == pytest.approx(exact, rel=1e-6)
    assert theirs(3) == pytest.approx(2 * exact, rel=1e-6)
    assert theirs(1) == pytest.approx(6 * exact, rel=1e-6)
    bounds = {"clip_low": 0.2, "clip_high": 0.2}
    for rows in (6, 3, 1):
        assert ours_in_parts("gmpo", outcome_sample, rows, bounds)["loss"] == pytest.approx(exact, rel=1e-12)


def test_verl_geo_mean_leaves_out_the_factor_of_the_ranks(verl, outcome_sample) -> None:
    # Every other loss is multiplied by the ranks, over which FSDP averages afterwards.
    info = {"dp_size": 4, "batch_num_tokens": int(outcome_sample.mask.sum()), "global_batch_size": 6}
    losses = {
        mode: [
            verl("policy_loss", mode=mode, **outcome_sample.policy, batch_info=batch_info)["loss"]
            for batch_info in ({}, info)
        ]
        for mode in ("geo_mean", "vanilla")
    }
    alone, of_four = losses["vanilla"]
    assert of_four == pytest.approx(4 * alone)
    alone, of_four = losses["geo_mean"]
    assert of_four == pytest.approx(alone)


@pytest.mark.parametrize("kind", ["tv", "kl"])
def test_verl_dppo_truncates_the_ratio_at_three(verl, ours, tokens, kind) -> None:
    # A rare token of probability e^-9 may become ten times as likely: its probability has hardly changed. The comment
    # in verl's code asks for a bound of about 20; its configuration has 3.
    batch = tokens([[10.0]], old=-9.0)
    theirs = verl("policy_loss", mode=f"dppo_{kind}", **batch.policy)
    assert theirs["gradient"].item() == pytest.approx(-3.0)
    params = {"kind": f"binary_{kind}", "anchor": "old"}
    assert ours("dppo", batch, params)["gradient"].item() == pytest.approx(-10.0)


@pytest.mark.parametrize("option", ["token_k1", "seq_mean_k1", "seq_sum_k1"])
def test_verl_rejection_by_k1_bounds_the_inverse_ratio(verl, ours, tokens, option) -> None:
    # The band of IcePop, 0.5 to 5, of pi / mu: 4 lies inside, 0.25 outside. verl keeps the other one.
    batch = tokens([[4.0], [0.25]])
    log_ratio = batch.log_probs - batch.rollout_log_probs
    kept = verl("rejection_mask", log_ratio=log_ratio, mask=batch.mask.double(), option=option, threshold="0.5_5.0")
    assert kept.flatten().tolist() == [0.0, 1.0]
    result = ours("icepop", batch, {"ratio_low": 0.5, "ratio_high": 5.0})
    assert result["gradient"].flatten().tolist() == pytest.approx([-4.0 / 2, 0.0])


def test_verl_says_nothing_of_a_plugin_that_fails_to_load(start_peer, distributions) -> None:
    good = "from verl.trainer.ppo.core_algos import register_policy_loss\nregister_policy_loss('good')(lambda **_: 0)\n"
    modules = {"good_plugin.py": good, "broken_plugin.py": "raise RuntimeError('this plugin is broken')\n"}
    plugins = {"good": "good_plugin", "broken": "broken_plugin"}
    distributions.add("verl-losses", {"verl.plugins": plugins}, modules=modules)
    peer = start_peer("verl", distributions.path)
    losses = peer("losses")
    assert "good" in losses  # so that plugins are loaded at all
    assert "broken" not in losses
    assert peer("log_level") >= LOGGED_BY_DEFAULT
    assert "this plugin is broken" not in peer.log.read_text()

    module = {"broken_loss.py": "raise RuntimeError('this plugin is broken')\n"}
    distributions.add("our-loss", {"skyrl.policy_losses": {"broken": "broken_loss:Broken"}}, modules=module)
    with pytest.raises(PluginLoadError, match="this plugin is broken"):
        load_policy_loss("broken")


def test_verl_replaces_a_loss_by_another_of_the_same_name(verl, monkeypatch) -> None:
    monkeypatch.setattr(registry.LOSSES, "_registered", {})  # ours stays registered in the process otherwise
    assert verl("registered_twice") == "second"
    register_policy_loss("of_two_authors", lambda log_probs, *_, **__: log_probs.sum())
    with pytest.raises(ValueError, match="of_two_authors"):
        register_policy_loss("of_two_authors", lambda log_probs, *_, **__: log_probs.mean())


def test_verl_finds_an_unknown_loss_only_at_the_first_update(verl, peer_error, tokens) -> None:
    # The configuration takes any name; this is the call of the first actor update.
    with pytest.raises(peer_error, match="Unsupported loss mode: vanila"):
        verl("policy_loss", mode="vanila", **tokens([[1.0]]).policy, policy_loss={"loss_mode": "vanila"})
    with pytest.raises(UnknownPluginError):
        load_policy_loss("vanila")


def test_verl_bypass_mode_discards_the_loss_of_the_user(verl) -> None:
    assert verl("mode_after_bypass", loss_mode="my_own_loss") == "bypass_mode"


def test_verl_gspo_defaults_to_a_token_mean(verl, ours, tokens) -> None:
    # GSPO averages over sequences: lengths 1 and 3 count the same.
    assert verl("defaults")["loss_agg_mode"] == "token-mean"
    batch = tokens([[1.0, None, None], [1.0, 1.0, 1.0]])
    theirs = verl("policy_loss", mode="gspo", **batch.policy)
    assert theirs["gradient"].sum(-1).tolist() == pytest.approx([-1 / 4, -3 / 4])
    assert ours("gspo", batch)["gradient"].sum(-1).tolist() == pytest.approx([-1 / 2, -1 / 2])


def test_verl_cispo_defaults_to_the_interval_of_ppo(verl, ours, tokens) -> None:
    # [0.8, 1.2] clamps the weight of almost every token that has moved.
    batch = tokens([[0.5, 3.0]])
    theirs = verl("policy_loss", mode="cispo", **batch.policy)
    assert theirs["gradient"].flatten().tolist() == pytest.approx([-0.8 / 2, -1.2 / 2])
    assert ours("cispo", batch)["gradient"].flatten().tolist() == pytest.approx([-0.5 / 2, -3.0 / 2])


def test_verl_clip_cov_depends_on_the_micro_batch(verl, ours_in_parts, sample) -> None:
    # "At least one token" of each micro-batch instead of one of the minibatch, by means of the micro-batch.
    cov = {"clip_cov_ratio": 1e-4, "clip_cov_lb": 0.01, "clip_cov_ub": 50.0}
    info = {"dp_size": 1, "batch_num_tokens": int(sample.mask.sum()), "global_batch_size": 6}

    def dropped_by_verl(rows: int) -> int:
        settings = {"config": {"clip_ratio_c": 1e9}, "policy_loss": cov, "batch_info": info}
        parts = [sample.rows(start, start + rows) for start in range(0, 6, rows)]
        shares = [verl("policy_loss", mode="clip_cov", **part.policy, **settings)["metrics"] for part in parts]
        lengths = [int(part.mask.sum()) for part in parts]
        dropped = zip(shares, lengths, strict=True)
        return round(sum(share["actor/pg_clipfrac"] * length for share, length in dropped))

    assert dropped_by_verl(6) == 1
    assert dropped_by_verl(3) == 2
    params = cov | {"clip_low": 0.2, "clip_high": 0.2}
    whole = ours_in_parts("clip_cov", sample, 6, params)["gradient"]
    without = ours_in_parts("dual_clip", sample, 6, {"clip_ratio_c": None})["gradient"]
    assert (whole != without).sum() == 1
    for rows in (3, 1):
        assert torch.equal(ours_in_parts("clip_cov", sample, rows, params)["gradient"], whole)


def test_verl_kl_cov_fills_in_another_coefficient_than_it_documents(verl, ours, tokens) -> None:
    # Its docstring and its fallback have 1; its configuration has 0.1 and always overrides them.
    batch = tokens([[2.0]], advantages=0.0)
    theirs = verl("policy_loss", mode="kl_cov", **batch.policy)
    assert theirs["loss"] == pytest.approx(0.1 * math.log(2))
    assert ours("kl_cov", batch)["loss"] == pytest.approx(math.log(2))


def test_verl_dro_has_a_default_that_fails_at_the_first_step(verl, peer_error, tokens) -> None:
    assert verl("defaults")["dro_beta"] is None
    with pytest.raises(peer_error, match="dro_beta must be a positive value"):
        verl("policy_loss", mode="dro", **tokens([[1.0]]).policy, policy_loss={"dro_beta": -1.0})
    with pytest.raises(InvalidParamsError, match="beta"):
        load_policy_loss("dro", {"beta": -1.0})


def test_verl_k1_as_a_loss_pulls_nowhere(verl, expected_kl_gradient) -> None:
    pull = expected_kl_gradient(
        lambda policy, reference: verl("kl", log_probs=policy, ref_log_probs=reference, kind="k1")["gradient"]
    )
    assert pull["reverse"].abs().max() > 0.01
    torch.testing.assert_close(pull["estimate"], torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="k1"):
        kl_loss(torch.zeros(1), torch.zeros(1), "k1")


def test_verl_default_kl_loss_is_the_forward_kl(verl, expected_kl_gradient) -> None:
    assert verl("defaults")["kl_loss_type"] == "low_var_kl"
    pull = expected_kl_gradient(
        lambda policy, reference: verl("kl", log_probs=policy, ref_log_probs=reference, kind="low_var_kl")["gradient"]
    )
    torch.testing.assert_close(pull["estimate"], pull["forward"], rtol=1e-10, atol=1e-12)
    assert (pull["estimate"] - pull["reverse"]).abs().max() > 0.01


def test_verl_k3_has_no_pull_where_the_reference_is_far_likelier(verl) -> None:
    # exp(-x) - 1 + x at x = -3 is 16.1: cut to 10, without gradient. Its derivative is 1 - e^3.
    policy, reference = torch.tensor([[-4.0]], dtype=torch.float64), torch.tensor([[-1.0]], dtype=torch.float64)
    theirs = verl("kl", log_probs=policy, ref_log_probs=reference, kind="k3")
    assert (theirs["values"].item(), theirs["gradient"].item()) == (10.0, 0.0)
    policy.requires_grad_()
    value = kl_loss(policy, reference, "k3").sum()
    value.backward()
    assert value.item() == pytest.approx(math.e**3 - 1 - 3)
    assert policy.grad.item() == pytest.approx(1 - math.e**3)


@pytest.mark.parametrize(("theirs", "ours"), [("grpo", "grpo"), ("rloo", "rloo"), ("opo", "opo")])
def test_verl_gives_a_group_of_one_its_raw_reward(verl, our_advantages, at_the_end, theirs, ours) -> None:
    # With one sample of a prompt, nothing shows whether 5 is a good reward for it.
    rewards, mask = torch.tensor([5.0, 1.0, 1.0], dtype=torch.float64), torch.ones(3, 2, dtype=torch.bool)
    batch = {"mask": mask, "groups": torch.tensor([0, 1, 1])}
    advantages = verl("advantages", name=theirs, token_rewards=at_the_end(rewards, mask), **batch)
    assert advantages[0].tolist() == pytest.approx([5.0, 5.0], rel=1e-5)
    assert our_advantages(ours, rewards, **batch)[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("mode", ["seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm"])
def test_verl_sequence_modes_let_a_nan_out_of_a_masked_slot(verl, ours, tokens, mode) -> None:
    batch = tokens([[1.0, None]])
    batch = batch.but(log_probs=torch.tensor([[-1.0, torch.nan]], dtype=torch.float64))
    theirs = verl("policy_loss", mode="vanilla", **batch.policy, config={"loss_agg_mode": mode})
    assert math.isnan(theirs["loss"])
    result = ours("dual_clip", batch, loss_reduction="sequence_mean")
    assert (result["loss"], result["gradient"].tolist()) == (pytest.approx(-1.0), [[-1.0, 0.0]])


def test_verl_divides_by_sequences_without_a_token(verl, ours, tokens) -> None:
    # In a distributed run the global batch size counts every sequence, although its code elsewhere leaves these out.
    batch = tokens([[1.0, 1.0], [None, None]])
    settings = {"config": {"loss_agg_mode": "seq-mean-token-mean"}}
    info = {"dp_size": 1, "global_batch_size": 2, "batch_num_tokens": 2}
    assert verl("policy_loss", mode="vanilla", **batch.policy, **settings)["loss"] == pytest.approx(-1.0)
    theirs = verl("policy_loss", mode="vanilla", **batch.policy, **settings, batch_info=info)
    assert theirs["loss"] == pytest.approx(-0.5)
    assert ours("dual_clip", batch, loss_reduction="sequence_mean")["loss"] == pytest.approx(-1.0)


def test_verl_dr_grpo_divides_by_the_padding_of_the_micro_batch(verl, tokens) -> None:
    # The same sequence, padded to two widths: the constant of Dr.GRPO is not constant unless it is set.
    narrow, wide = tokens([[1.0, 1.0]]), tokens([[1.0, 1.0, None, None]])
    mode = "seq-mean-token-sum-norm"
    theirs = [verl("aggregate", values=-b.log_probs, mask=b.mask, mode=mode)["loss"] for b in (narrow, wide)]
    assert theirs == pytest.approx([1.0, 0.5])
    with pytest.raises(ValueError, match="max_length"):
        token_weights(wide.mask, "sequence_sum_norm", count_batch(wide.mask))
