"""Errors of TRL 1.16.0: each test runs its code, shows the wrong number, and checks ours by hand."""

import math

import pytest
import torch

from skyrl_core.errors import InvalidParamsError, UnknownPluginError
from skyrl_core.registry.loss_registry import load_policy_loss

pytestmark = pytest.mark.peers


def test_trl_cispo_default_bound_turns_every_ratio_into_a_fifth(trl, ours, tokens) -> None:
    # There epsilon_high is the bound itself. If unset, it is epsilon, 0.2, which clamps every ratio near 1.
    batch = tokens([[0.5, 1.0], [2.0, 4.0]])
    theirs = trl("policy_loss", **batch.policy, config={"loss_type": "cispo"})
    assert theirs["gradient"].flatten().tolist() == pytest.approx([-0.2 / 4] * 4)
    # CISPO: -r A / tokens, and none of these ratios is large
    assert ours("cispo", batch)["gradient"].flatten().tolist() == pytest.approx([-0.125, -0.25, -0.5, -1.0])


def test_trl_cispo_does_not_count_what_it_clamps_where_the_advantage_is_negative(trl, tokens) -> None:
    batch = tokens([[8.0, 8.0], [8.0, 8.0]], advantages=-1.0)
    theirs = trl("policy_loss", **batch.policy, config={"loss_type": "cispo", "epsilon_high": 5.0})
    # All four are clamped, to 5
    assert theirs["gradient"].flatten().tolist() == pytest.approx([5 / 4] * 4)
    assert theirs["metrics"]["cispo_clip_ratio"] == 0.0


def test_trl_token_mean_is_exact_only_on_average_over_windows(trl, ours, tokens) -> None:
    # One generation, two optimizer steps: the first has 8 tokens, the second 2. Each token's loss is -1.
    config = {"loss_type": "dapo", "steps_per_generation": 2, "gradient_accumulation_steps": 1}
    windows = [tokens([[1.0] * 4] * 2), tokens([[1.0]] * 2)]
    theirs = [trl("policy_loss", **window.policy, config=config, num_items=10)["loss"] for window in windows]
    assert theirs == pytest.approx([-8 / 5, -2 / 5])  # divided by the mean window, 5
    assert [ours("dual_clip", window)["loss"] for window in windows] == pytest.approx([-1.0, -1.0])


def test_trl_token_mean_no_longer_depends_on_the_steps_per_generation(trl, tokens) -> None:
    # Fixed in 1.16.0: before, four steps per generation made every loss four times too small.
    config = {"loss_type": "dapo", "steps_per_generation": 4, "gradient_accumulation_steps": 1}
    theirs = trl("policy_loss", **tokens([[1.0, 1.0]] * 2).policy, config=config, num_items=16)
    assert theirs["loss"] == pytest.approx(-1.0)


def test_trl_luspo_no_longer_averages_over_padding(trl, ours, tokens) -> None:
    # Fixed in 1.16.0. A token-level ratio makes the loss [B, T]; its mean over all slots was scaled by |y| / T.
    batch = tokens([[1.0, None, None, None], [1.0, 1.0, 1.0, None]])
    theirs = trl("policy_loss", **batch.policy, config={"loss_type": "luspo", "importance_sampling_level": "token"})
    assert theirs["loss"] == pytest.approx(-(1 + 3) / 2)
    assert ours("luspo", batch)["loss"] == pytest.approx(-2.0)


def test_trl_sequence_ratio_under_the_default_reduction_weighs_by_length(trl, ours, tokens) -> None:
    # GSPO averages over sequences: lengths 1 and 3 count the same. TRL's default loss type is a token mean.
    batch = tokens([[1.0, None, None], [1.0, 1.0, 1.0]])
    theirs = trl("policy_loss", **batch.policy, config={"importance_sampling_level": "sequence"})
    assert theirs["gradient"].sum(-1).tolist() == pytest.approx([-1 / 4, -3 / 4])
    assert ours("gspo", batch)["gradient"].sum(-1).tolist() == pytest.approx([-1 / 2, -1 / 2])


def test_trl_sequence_mean_counts_sequences_without_a_token(trl, ours, tokens) -> None:
    batch = tokens([[1.0, 1.0], [None, None]])
    theirs = trl("policy_loss", **batch.policy, config={"loss_type": "grpo"})
    assert theirs["loss"] == pytest.approx(-0.5)
    assert ours("dual_clip", batch, loss_reduction="sequence_mean")["loss"] == pytest.approx(-1.0)


def test_trl_lets_a_nan_out_of_a_masked_slot(trl, ours, tokens) -> None:
    batch = tokens([[1.0, None], [1.0, 1.0]])
    log_probs = batch.log_probs.clone()
    log_probs[0, 1] = torch.nan
    batch = batch.but(log_probs=log_probs)
    theirs = trl("policy_loss", **batch.policy, config={"loss_type": "dapo"})
    assert math.isnan(theirs["loss"])
    result = ours("dual_clip", batch)
    assert result["loss"] == pytest.approx(-1.0)
    assert result["gradient"].flatten().tolist() == pytest.approx([-1 / 3, 0.0, -1 / 3, -1 / 3])


def test_trl_accepts_a_delta_that_stops_all_learning(trl, tokens) -> None:
    # Two-sided clipping needs delta > 1 + epsilon. Below 1 it caps the ratio of good tokens before they move.
    batch = tokens([[1.0, 1.0], [1.0, 1.0]])
    theirs = trl("policy_loss", **batch.policy, config={"loss_type": "dapo", "delta": 0.5})
    assert theirs["gradient"].abs().max() == 0
    with pytest.raises(InvalidParamsError, match="clip_ratio_c"):
        load_policy_loss("dual_clip", {"clip_ratio_c": 0.5})


def test_trl_finds_an_unknown_loss_only_after_the_first_generation(trl, peer_error, tokens) -> None:
    assert trl("constructed", config={"loss_type": "dapoo"}) == "dapoo"
    with pytest.raises(peer_error, match="Unknown loss type: dapoo"):
        trl("policy_loss", **tokens([[1.0], [1.0]]).policy, config={"loss_type": "dapoo"})
    with pytest.raises(UnknownPluginError, match="dual_clip"):
        load_policy_loss("dual_clipp")


def test_trl_vespo_refuses_the_default_correction(trl, peer_error, ours, tokens) -> None:
    # vLLM's correction is on by default, in a mode that VESPO rejects. Ours has no such mode.
    with pytest.raises(peer_error, match=r"VESPO loss requires.*sequence_mask"):
        trl("constructed", config={"loss_type": "vespo", "use_vllm": True})
    assert ours("vespo", tokens([[1.0]]))["gradient"].item() == pytest.approx(-1.0)
