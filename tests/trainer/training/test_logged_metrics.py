"""The glossary of metrics lists exactly what runs log, feature by feature."""

import json
from importlib.metadata import entry_points

import pytest
from tests.trainer.fixtures.listed_metrics import metric_names, unlisted, unlogged

SHORT = {
    "trainer.steps": 1,
    "trainer.prompts_per_step": 2,
    "trainer.samples_per_prompt": 2,
    "rollout.max_new_tokens": 8,
    "evaluation.prompts": 0,
    "tracking.keep_rollouts": 0,
}
LOSSES = sorted(
    entry.name
    for entry in entry_points(group="skyrl.policy_losses")
    if entry.value.startswith("skyrl_core.") and entry.name != "sum"
)
FALLING = {"schedule": "linear", "start": 0.2, "end": 0.1, "steps": 4}

FEATURES = {
    "grpo": {},
    "kl in the loss": {"trainer.algorithm.kl_coef": 0.1},
    "kl in the reward": {"trainer.algorithm.kl_reward_coef": 0.1},
    "entropy bonus": {"trainer.algorithm.entropy_coef": 0.01},
    "high-entropy tokens": {"trainer.algorithm.high_entropy_fraction": 0.5},
    "skipped sequences": {"trainer.algorithm.skip_zero_advantages": True},
    "schedules": {
        "trainer.algorithm.kl_coef": FALLING,
        "trainer.algorithm.kl_reward_coef": FALLING,
        "trainer.algorithm.entropy_coef": FALLING,
        "trainer.algorithm.dual_clip": {"clip_low": FALLING},
        "trainer.optimizer.learning_rate": FALLING | {"start": 2e-4, "end": 1e-4},
        "rollout.temperature": FALLING,
    },
    "every loss": {
        "trainer.algorithm.policy_loss_type": "sum",
        "trainer.algorithm.sum": {"terms": [{"loss": name} for name in LOSSES]},
    },
    "adapters": {"trainer.lora.rank": 2},
    "micro-batches by tokens": {"trainer.micro_batch_tokens": 64, "trainer.minibatches": 2, "trainer.epochs": 2},
    "evaluation": {"evaluation.prompts": 2, "evaluation.samples_per_prompt": 2},
    "checkpoints": {"checkpoint.every": 1, "trainer.steps": 2},
    "an engine with a copy of the weights": {"trainer.deepspeed.zero_stage": 3},
    **{
        f"off-policy correction, {weight} weights and a {band} band": {
            "trainer.algorithm.off_policy": {"weight": weight, "outside": outside, "band": band}
        }
        for weight, outside, band in (
            ("token", "truncate", "none"),
            ("sequence", "mask", "product"),
            ("geometric", "truncate", "geometric"),
            ("none", "truncate", "token"),
        )
    },
}

NAMED_REWARDS = """
def reward(completion, row):
    return {"length": len(completion.text), "mark": float("####" in completion.text)}
"""
ROW = {"prompt": "What is 4 + 2?", "ground_truth": "6"}

ENGINE = """
from dataclasses import replace
from skyrl_train.rollout.hf.engine import HfEngine

class Copy(HfEngine):
    works_elsewhere = True  # it never touches the trained module, so it can sample while that is updated

    def __init__(self, setup):
        super().__init__(replace(setup, trained=None))
"""


@pytest.fixture(scope="module")
def logged(train, tmp_path_factory):
    """The metrics of one short run for each feature."""
    folder = tmp_path_factory.mktemp("features")
    (folder / "rewards.py").write_text(NAMED_REWARDS)
    (folder / "rows.jsonl").write_text(json.dumps(ROW) + "\n")
    rewards = {"environment.name": f"{folder}/rewards.py:reward", "data.train": f"{folder}/rows.jsonl"}
    features = FEATURES | {"named rewards": rewards}
    return {
        feature: metric_names(train(folder / f"run{number}", **SHORT | options), LOSSES)
        for number, (feature, options) in enumerate(features.items())
    }


@pytest.fixture
def logged_one_step_ahead(train, distributions, tmp_path):
    """The metrics of a run that samples the next batch while it trains on this one."""
    groups = {"skyrl.rollout_engines": {"copy": "copy_engine:Copy"}}
    distributions.add("copy-engine", groups, modules={"copy_engine.py": ENGINE})
    options = {
        "trainer.steps": 3,
        "rollout.engine": "copy",
        "rollout.async": "one_step",
        "trainer.algorithm.off_policy": {"weight": "token"},
    }
    return metric_names(train(tmp_path / "run", **SHORT | options))


@pytest.mark.parametrize("feature", [*FEATURES, "named rewards"])
def test_every_logged_metric_is_in_the_glossary(logged, feature):
    assert unlisted(logged[feature]) == set()


def test_every_metric_of_a_run_that_samples_one_step_ahead_is_in_the_glossary(logged_one_step_ahead):
    assert unlisted(logged_one_step_ahead) == set()


def test_every_metric_of_the_glossary_is_logged(logged, logged_one_step_ahead):
    assert unlogged(set().union(logged_one_step_ahead, *logged.values())) == []
