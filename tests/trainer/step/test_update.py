from dataclasses import replace

import pytest
import torch

from skyrl_core import LossParams, Metric, Need, PolicyLoss, Prepared, TokenLosses, load_policy_loss
from skyrl_core.errors import SkyrlError
from skyrl_core.registry.scheduled_loss import ScheduledLoss
from skyrl_train.step.batching import MicroBatchSize
from skyrl_train.step.objective import Objective
from skyrl_train.step.update import PolicyUpdate, summarise


class CentredLoss(PolicyLoss):
    """A loss with a statistic of the minibatch: advantages minus their mean over tokens."""

    name = "centred"
    Params = LossParams
    api_version = 1
    semantics_version = 1

    def prepare(self, minibatch):
        mean = minibatch.advantages.sum() / minibatch.mask.sum()
        return Prepared(
            per_token={"of_row": minibatch.advantages - mean},
            per_minibatch={"mean": mean, "seen": minibatch.mask.sum()},
        )

    def token_losses(self, batch):
        # Twice the same number, once as a scalar and once cut to the rows: they must agree in every micro-batch.
        centred = batch.advantages - batch.prepared["mean"]
        torch.testing.assert_close(
            torch.where(batch.mask, centred, 0.0), torch.where(batch.mask, batch.prepared["of_row"], 0.0)
        )
        ratio = (batch.log_probs - batch.old_log_probs).exp()
        return TokenLosses(
            values=-ratio * centred,
            terms={"policy": -ratio * centred},
            metrics={"ratio_max": Metric.max(ratio, batch.mask), "seen": Metric.mean(centred * 0 + 1, batch.mask)},
        )


class CentredRatio(PolicyLoss):
    """Advantages times a ratio whose mean over the minibatch is 1: all sequences count, whatever their advantage."""

    name = "centred_ratio"
    Params = LossParams
    api_version = 1
    semantics_version = 1

    @classmethod
    def needs(cls, params):
        return frozenset({Need.OLD_LOG_PROBS})

    def prepare(self, minibatch):
        ratio = torch.where(minibatch.mask, (minibatch.log_probs - minibatch.old_log_probs).exp(), 0.0)
        return Prepared(per_minibatch={"mean": ratio.sum() / minibatch.mask.sum()})

    def token_losses(self, batch):
        ratio = (batch.log_probs - batch.old_log_probs).exp()
        return TokenLosses(values=-ratio / batch.prepared["mean"] * batch.advantages)


def objective(loss, *, kl_coef=0.0, reduction="token_mean", **settings):
    return Objective(loss=ScheduledLoss.fixed(loss), reduction=reduction, max_length=8, kl_coef=kl_coef, **settings)


def stepped(ranks, engine, loss_objective, part, size, tokens=None):
    size = MicroBatchSize(sequences=size, tokens=tokens)
    update = PolicyUpdate(engine, loss_objective, ranks, micro_batch_size=size, pad_id=0)
    log = update.step(part, num_groups=5, learning_rate=0.0, step=3)
    return summarise([log], ranks), engine.gradient


@pytest.mark.parametrize("name", ["standard", "gspo", "centred"])
def test_gradient_and_metrics_are_the_same_for_all_micro_batches_and_ranks(name, experience, plain_engine, on_ranks):
    loss = CentredLoss(LossParams()) if name == "centred" else load_policy_loss(name)
    batch = replace(experience, old_log_probs=experience.rollout_log_probs, ref_log_probs=experience.rollout_log_probs)
    goal = objective(loss, kl_coef=0.1, reduction="sequence_mean")

    def on(world_size, size, tokens=None):
        def work(ranks):
            own = torch.tensor([group % world_size == ranks.rank for group in batch.groups.tolist()])
            return stepped(ranks, plain_engine(ranks), goal, batch.select(own.nonzero().squeeze(-1)), size, tokens)

        return on_ranks(world_size, work)[0]

    wanted_metrics, wanted = on(1, 64)
    assert any(gradient.any() for gradient in wanted.values())
    # Of seven ranks two have no rows. A budget of 8 tokens is less than the longest row.
    for world_size, *size in ((1, 1), (1, 3), (2, 2), (3, 4), (7, 1), (1, 1, 8), (1, 1, 30), (2, 1, 30), (7, 1, 30)):
        metrics, gradient = on(world_size, *size)
        for parameter, values in wanted.items():
            torch.testing.assert_close(gradient[parameter], values, rtol=1e-4, atol=1e-6)
        assert metrics == pytest.approx(wanted_metrics, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", ["dual_clip", "gspo", "clip_cov", "centred_ratio"])
@pytest.mark.parametrize(("world_size", "without"), [(1, [1, 4]), (2, [1, 3]), (3, [0, 1, 2, 3]), (2, [0, 1, 2, 3, 4])])
def test_skipping_sequences_without_an_advantage_changes_no_gradient(
    name, world_size, without, experience, plain_engine, on_ranks
):
    loss = CentredRatio(LossParams()) if name == "centred_ratio" else load_policy_loss(name)
    silent = torch.isin(experience.groups, torch.tensor(without))
    batch = replace(
        experience,
        advantages=torch.where(silent[:, None], 0.0, experience.advantages),
        old_log_probs=experience.rollout_log_probs,
    )

    def on(skip):
        goal = objective(loss, reduction="sequence_mean", skip_zero_advantages=skip)
        engines = {}

        def work(ranks):
            own = torch.tensor([group % world_size == ranks.rank for group in batch.groups.tolist()])
            engines[ranks.rank] = plain_engine(ranks)
            return stepped(ranks, engines[ranks.rank], goal, batch.select(own.nonzero().squeeze(-1)), 1)

        return on_ranks(world_size, work)[0], engines[0].calls

    (wanted_metrics, wanted), calls = on(False)
    (metrics, gradient), fewer = on(True)
    # With one group left, gspo may clip all of it.
    assert any(values.any() for values in wanted.values()) or len(without) > 3
    for parameter, values in wanted.items():
        torch.testing.assert_close(gradient[parameter], values, rtol=1e-4, atol=1e-7)
    assert metrics["loss/total"] == pytest.approx(wanted_metrics["loss/total"], abs=1e-6)
    assert metrics["skipped_sequences"] == silent.sum() / 10
    assert "skipped_sequences" not in wanted_metrics
    busiest = max(torch.bincount(experience.groups[~silent] % world_size).tolist(), default=1)
    assert fewer.count("forward") == busiest <= calls.count("forward")
    assert fewer.count("last backward") == fewer.count("step") == 1


def test_old_log_probs_are_the_current_ones_when_one_step_follows_a_rollout(experience, plain_engine, one_rank):
    metrics, _ = stepped(one_rank, plain_engine(one_rank), objective(load_policy_loss("dual_clip")), experience, 4)
    assert metrics["ratio_max"] == 1.0
    assert metrics["clip_fraction_low"] == metrics["clip_fraction_high"] == 0.0


def test_the_kl_term_is_part_of_the_loss(experience, plain_engine, one_rank):
    batch = replace(experience, ref_log_probs=experience.rollout_log_probs)
    goal = objective(load_policy_loss("standard"), kl_coef=0.5)
    metrics, _ = stepped(one_rank, plain_engine(one_rank), goal, batch, 3)
    plain, _ = stepped(one_rank, plain_engine(one_rank), objective(load_policy_loss("standard")), batch, 3)
    assert metrics["kl"] > 0
    assert metrics["loss/kl"] == pytest.approx(0.5 * metrics["kl"], rel=1e-5)  # both are token means
    assert metrics["loss/total"] == pytest.approx(plain["loss/total"] + metrics["loss/kl"], rel=1e-5)


def test_one_backward_pass_for_each_micro_batch_and_one_step(experience, plain_engine, one_rank):
    engine = plain_engine(one_rank)
    stepped(one_rank, engine, objective(load_policy_loss("standard")), experience, 4)
    assert engine.calls == ["forward", "backward"] * 2 + ["forward", "last backward", "step"]


def test_entropy_is_computed_only_for_losses_that_need_it(experience, plain_engine, one_rank):
    asks, _ = stepped(one_rank, plain_engine(one_rank), objective(load_policy_loss("entropy_reg")), experience, 4)
    does_not, _ = stepped(one_rank, plain_engine(one_rank), objective(load_policy_loss("clipped_pg")), experience, 4)
    assert 0 < asks["entropy"] < 3.69  # ln 40, the vocabulary
    assert "entropy" not in does_not


class BrokenLoss(PolicyLoss):
    def compute_loss(self, log_probs, old_log_probs, advantages, masks, **kwargs):
        return log_probs.sum() * float("nan")


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(experience, plain_engine, one_rank):
    engine = plain_engine(one_rank)
    with pytest.raises(SkyrlError, match=r"optimizer step 4 is nan.*BrokenLoss"):
        stepped(one_rank, engine, objective(BrokenLoss(LossParams())), experience, 4)
    assert "step" not in engine.calls


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize(("rate", "after"), [(1e4, r"\d"), (1e30, r"\d|inf"), (1e38, "inf|nan")])
def test_an_update_that_destroys_the_weights_stops_every_rank(
    rate, after, world_size, experience, plain_engine, on_ranks
):
    def work(ranks):
        own = torch.tensor([group % world_size == ranks.rank for group in experience.groups.tolist()])
        part, size = experience.select(own.nonzero().squeeze(-1)), MicroBatchSize(sequences=4)
        goal = objective(load_policy_loss("standard"))
        update = PolicyUpdate(plain_engine(ranks), goal, ranks, micro_batch_size=size, pad_id=0)
        update.step(part, num_groups=5, learning_rate=1e-3, step=0)  # an ordinary one
        with pytest.raises(SkyrlError, match=rf"optimizer step 2 changed .* to ({after}).*learning rate of") as error:
            update.step(part, num_groups=5, learning_rate=rate, step=1)
        return str(error.value)

    messages = on_ranks(world_size, work)
    assert len(set(messages)) == 1
    assert "checkpoints are unchanged. Lower trainer.optimizer.learning_rate" in messages[0]


class NeedsReference(PolicyLoss):
    name = "needs_reference"
    Params = LossParams
    api_version = 1
    semantics_version = 1

    @classmethod
    def needs(cls, params):
        return frozenset({Need.REF_LOG_PROBS, Need.ROLLOUT_LOG_PROBS, Need.GROUPS})

    def token_losses(self, batch):
        assert batch.groups.shape == batch.mask.shape[:1]
        return TokenLosses(values=(batch.log_probs - batch.ref_log_probs) * batch.rollout_log_probs)


def test_every_declared_input_arrives_on_ranks_without_rows_too(experience, plain_engine, on_ranks):
    batch = replace(experience, ref_log_probs=experience.rollout_log_probs)

    def work(ranks):
        part = batch if ranks.rank == 0 else batch.select(torch.arange(0))
        return stepped(ranks, plain_engine(ranks), objective(NeedsReference(LossParams())), part, 4)

    assert len(on_ranks(2, work)) == 2
