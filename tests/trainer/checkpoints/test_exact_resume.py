"""Two steps and two resumed ones equal four steps bit for bit: metrics, parameters, optimizer state, random states."""

import json
import shutil

import pytest
from tests.trainer.fixtures.plain_checkpoint import write_old_manifest

FALLING = {"schedule": "linear", "start": 0.2, "end": 0.0, "steps": 8}
# All features that depend on the step, on earlier metrics or on a global random number generator.
CHANGING = {
    "trainer.algorithm.policy_loss_type": "sum",
    "trainer.algorithm.sum.terms": [
        {"loss": "entropy_reg@1", "params": {"target_entropy": 0.3, "clip_high": FALLING | {"end": 0.1}}},
        {"loss": "cross_entropy", "weight": FALLING},
        {"loss": "clip_cov", "weight": 0.1},
    ],
    "trainer.algorithm.kl_coef": FALLING,
    "trainer.algorithm.kl_reward_coef": 0.05,
    "trainer.algorithm.entropy_coef": {"schedule": "cosine", "start": 0.0, "end": 0.01, "steps": 8},
    "rollout.temperature": {"schedule": "piecewise", "points": [[0, 1.2], [8, 0.8]]},
}
ADAPTERS = {"trainer.lora.rank": 4, "trainer.algorithm.kl_coef": 0.1}
RUN = {
    "trainer.steps": 4,
    "trainer.samples_per_prompt": 2,
    "trainer.minibatches": 2,
    "trainer.optimizer.schedule": "linear",
    "trainer.optimizer.warmup_steps": 3,
    "trainer.algorithm.advantage_estimator": "noisy",
    "rollout.max_new_tokens": 8,
    "evaluation.prompts": 0,
    "checkpoint.every": 2,
    "checkpoint.keep": 5,
    "tracking.trackers": [],
}


def copy_half(uninterrupted, broken):
    """The run as it was after step 2."""
    shutil.copytree(uninterrupted, broken)
    shutil.rmtree(broken / "checkpoints/step_000004")


@pytest.fixture
def compare(zygote, tiny_run, tmp_path, train_rows, assert_same_state):
    def run_both(ranks: int, options: dict) -> None:
        uninterrupted, broken = tmp_path / "uninterrupted", tmp_path / "broken"
        zygote.train(tiny_run(RUN | options | {"run_folder": str(uninterrupted)}), ranks=ranks)
        copy_half(uninterrupted, broken)
        zygote.train([*tiny_run(RUN | options), "--resume", str(broken)], ranks=ranks)
        rows = train_rows(uninterrupted)
        assert list(rows) == [1, 2, 3, 4]
        assert train_rows(broken) == rows
        # Step 3 makes optimizer steps 4 and 5 of 8, counted from 0; 3 warm up, so the rate has fallen by 2/5.
        assert rows[3]["learning_rate"] == pytest.approx(1e-4 * 3 / 5)
        one, other = (folder / "checkpoints/step_000004" for folder in (uninterrupted, broken))
        assert_same_state(one, other)
        manifests = [json.loads((path / "manifest.json").read_text()) for path in (one, other)]
        assert manifests[0]["progress"] == manifests[1]["progress"]
        assert manifests[0]["sha256"] == manifests[1]["sha256"]

    return run_both


@pytest.mark.train
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_on_one_rank(compare, stage):
    compare(1, {"trainer.deepspeed.zero_stage": stage})


@pytest.mark.train
def test_with_schedules_a_composed_loss_and_one_that_adapts(compare):
    compare(1, CHANGING)


@pytest.mark.train
@pytest.mark.parametrize("stage", [2, 3])
def test_in_bfloat16(compare, stage):
    compare(1, {"trainer.deepspeed.zero_stage": stage, "trainer.deepspeed.precision": "bf16"})


@pytest.mark.train
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_with_adapters(compare, stage):
    compare(1, ADAPTERS | {"trainer.deepspeed.zero_stage": stage})


@pytest.mark.ranks
def test_on_two_ranks_with_adapters(compare):
    compare(2, ADAPTERS | {"trainer.deepspeed.zero_stage": 3})


@pytest.mark.ranks
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_on_two_ranks(compare, stage):
    compare(2, {"trainer.deepspeed.zero_stage": stage})


@pytest.mark.ranks
def test_on_two_ranks_with_schedules_a_composed_loss_and_one_that_adapts(compare):
    compare(2, CHANGING)


@pytest.mark.train
def test_a_resume_without_the_random_states_differs(zygote, tiny_run, tmp_path, train_rows):
    """The plugin of these tests uses random numbers, so a checkpoint without their states must make a difference."""
    uninterrupted, broken = tmp_path / "uninterrupted", tmp_path / "broken"
    zygote.train(tiny_run(RUN | {"run_folder": str(uninterrupted)}))
    copy_half(uninterrupted, broken)
    checkpoint = broken / "checkpoints/step_000002"
    shutil.rmtree(checkpoint / "random")
    write_old_manifest(checkpoint, 1)
    zygote.train([*tiny_run(RUN), "--resume", str(broken)])
    assert train_rows(broken)[2] == train_rows(uninterrupted)[2]
    assert train_rows(broken)[3] != train_rows(uninterrupted)[3]


def prompts(folder, step):
    """The distinct prompts of a step, in order."""
    lines = (folder / f"rollouts/step_{step:06d}.jsonl").read_text().splitlines()
    return list(dict.fromkeys(str(json.loads(line)["prompt"]) for line in lines))


@pytest.mark.train
def test_the_data_continues_at_its_position_with_other_prompts_per_step(zygote, tiny_run, tmp_path):
    steady, changed = tmp_path / "steady", tmp_path / "changed"
    options = RUN | {"tracking.keep_rollouts": 9}
    few = {"trainer.prompts_per_step": 2, "trainer.steps": 6}
    zygote.train(tiny_run(options | few | {"run_folder": str(steady)}))
    zygote.train(tiny_run(options | {"trainer.prompts_per_step": 4, "trainer.steps": 2, "run_folder": str(changed)}))
    zygote.train([*tiny_run(options | few | {"trainer.steps": 4}), "--resume", str(changed), "--accept-changes"])
    expected = [prompt for step in range(1, 7) for prompt in prompts(steady, step)]
    assert [prompt for step in range(1, 5) for prompt in prompts(changed, step)] == expected
    assert len(set(expected)) == 12


@pytest.mark.train
def test_from_a_checkpoint_without_the_position_in_the_data(zygote, tiny_run, tmp_path, train_rows):
    uninterrupted, broken = tmp_path / "uninterrupted", tmp_path / "broken"
    zygote.train(tiny_run(RUN | {"run_folder": str(uninterrupted)}))
    copy_half(uninterrupted, broken)
    assert write_old_manifest(broken / "checkpoints/step_000002", 2) == 8
    zygote.train([*tiny_run(RUN), "--resume", str(broken)])
    assert train_rows(broken) == train_rows(uninterrupted)
