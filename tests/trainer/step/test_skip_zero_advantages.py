"""Skipping sequences without an advantage does not change a step, AdamW's moments included."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from skyrl_core.registry.resolved_loss import ResolvedLoss
from skyrl_train.config.schema import DeepSpeedConfig, OptimizerConfig
from skyrl_train.policy.model_loading import load_model
from skyrl_train.policy.policy import Policy
from skyrl_train.ranks.ranks import Ranks
from skyrl_train.step.batching import MicroBatchSize
from skyrl_train.step.objective import Objective
from skyrl_train.step.skip_zero_advantages import learning_rows
from skyrl_train.step.update import PolicyUpdate
from skyrl_train.trainer_engine.zero import ZeroEngine


def test_a_sequence_learns_if_one_of_its_tokens_has_an_advantage(experience):
    advantages = torch.zeros_like(experience.advantages)
    advantages[3, 0], advantages[8, 0] = -0.5, 1.0
    assert learning_rows(replace(experience, advantages=advantages)).nonzero().flatten().tolist() == [3, 8]


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_step_without_advantages_decays_weights_and_moments_as_usual(stage, experience):
    ranks = Ranks.start()
    silent = replace(experience, advantages=torch.zeros_like(experience.advantages))

    def trained(skip):
        model = load_model("tiny", torch.float32)
        engine = ZeroEngine(
            Policy(model, chunk_size=64, temperature=1.0),
            DeepSpeedConfig(zero_stage=stage),
            OptimizerConfig(weight_decay=0.1),
            ranks,
        )
        loss = ResolvedLoss.find("dual_clip", {}).scheduled()
        objective = Objective(loss=loss, reduction="token_mean", max_length=8, skip_zero_advantages=skip)
        update = PolicyUpdate(engine, objective, ranks, micro_batch_size=MicroBatchSize(sequences=4), pad_id=0)
        states, logs = [], []
        for step, batch in enumerate([experience, silent, silent]):
            logs.append(update.step(batch, num_groups=5, learning_rate=1e-3, step=step))
            states.append({name: tensor.clone() for name, tensor in engine.named_tensors()})
        engine.close()
        return states, logs

    (wanted, _), (found, logs) = trained(skip=False), trained(skip=True)
    ranks.end_run()
    assert logs[1].grad_norm == logs[2].grad_norm == 0.0
    for before, after in pairwise(found):
        assert any(not torch.equal(before[name], after[name]) for name in before)  # moments and decay still apply
    for expected, state in zip(wanted, found, strict=True):
        assert expected.keys() == state.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(state[name], tensor, rtol=0, atol=0)
