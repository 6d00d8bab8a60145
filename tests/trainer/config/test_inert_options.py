"""Given options that another option makes ineffective are named in the notes of the plan."""

from pathlib import Path

import pytest

from skyrl_train.config.load_config import resolve_run
from skyrl_train.config.presets import all_presets
from skyrl_train.environments.load_environment import load_environment


def notes(*overrides, files=()):
    return resolve_run(load_environment, files=files, overrides=overrides).notes


@pytest.mark.parametrize(
    ("given", "because"),
    [
        ("trainer.lora.alpha=16", "trainer.lora.rank is null"),
        ("trainer.lora.rank_stabilised=true", "trainer.lora.rank is null"),
        ("trainer.lora.target_modules=[q_proj]", "trainer.lora.rank is null"),
        ("trainer.algorithm.off_policy.high=3", "off_policy.weight is none"),
        ("trainer.algorithm.off_policy.band_low=0.7", "off_policy.band is none"),
        ("trainer.algorithm.kl_estimator=k3", "kl_coef is 0"),
        ("trainer.algorithm.kl_reward_estimator=k3", "kl_reward_coef is 0"),
        ("trainer.algorithm.high_entropy_fraction=1", "takes all tokens"),
        ("trainer.micro_batch_size=3 trainer.micro_batch_tokens=900", "micro_batch_tokens replaces it"),
        ("rollout.vllm.max_num_seqs=8", "rollout.engine is not vllm"),
        ("rollout.server.max_concurrency=8", "rollout.engine is not vllm_server"),
        ("rollout.batch_size=8 rollout.engine=vllm_server", "only the rollout engine hf"),
        ("rollout.probe_tolerance=0.5 rollout.probe=false", "rollout.probe is false"),
        ("evaluation.temperature=0.5 evaluation.prompts=0", "evaluates nothing"),
        ("evaluation.every=50", "before and after training only"),
        ("evaluation.top_k=5 evaluation.temperature=0 evaluation.samples_per_prompt=1", "most probable token"),
        ("checkpoint.every=51", "after the last step only"),
        ("data.train_split=extra", "data.train is null"),
        ("data.prompt_column=question", "the environment provides the rows"),
        ("tracking.wandb.project=mine", "does not name wandb"),
        ("tracking.trackio.project=mine", "does not name trackio"),
    ],
)
def test_an_option_without_effect_is_named_with_its_reason(given, because):
    key = given.partition("=")[0]
    (note,) = [note for note in notes(*given.split()) if note.startswith(key)]
    assert note.startswith(f"{key} has no effect: ")
    assert because in note


@pytest.mark.parametrize(
    "overrides",
    [
        ("trainer.lora.rank=8", "trainer.lora.alpha=16"),
        ("trainer.algorithm.kl_coef=0.1", "trainer.algorithm.kl_estimator=k3"),
        ("trainer.algorithm.off_policy.weight=token", "trainer.algorithm.off_policy.high=3"),
        ("evaluation.every=49", "checkpoint.every=10"),
        ("trainer.lora.alpha=32",),  # the default
        ("evaluation.prompts=0",),
        (),
    ],
)
def test_an_option_with_an_effect_and_a_default_leave_no_note(overrides):
    assert [note for note in notes(*overrides) if "no effect" in note] == []


@pytest.mark.parametrize("name", [preset.name for preset in all_presets()])
def test_no_preset_has_an_option_without_effect(name):
    assert [note for note in notes(files=[Path(name)]) if "no effect" in note] == []


def test_several_options_of_one_reason_share_a_note():
    (note,) = notes("tracking.wandb.project=mine", "tracking.wandb.notes=try")
    assert note.startswith("tracking.wandb.project, tracking.wandb.notes have no effect: ")


@pytest.mark.parametrize("every", [2, 10])
def test_sampling_ahead_that_checkpoints_interrupt_is_noted(every):
    ahead = ("rollout.async=one_step", "rollout.engine=vllm_server", "trainer.algorithm.off_policy.weight=token")
    assert any(
        f"samples ahead in {every - 1} of {every} steps" in note for note in notes(*ahead, f"checkpoint.every={every}")
    )


@pytest.mark.parametrize(
    ("overrides", "noted"),
    [
        ((), True),
        (("trainer.algorithm.advantage_estimator=rloo",), True),
        (("trainer.algorithm.advantage_estimator=reinforce_pp",), False),
        (("trainer.algorithm.advantage_estimator=reinforce_pp", "trainer.algorithm.reinforce_pp.baseline=true"), True),
        (("trainer.samples_per_prompt=2",), False),
    ],
)
def test_groups_too_small_for_their_estimator_are_noted_in_the_plan(overrides, noted):
    found = notes("trainer.samples_per_prompt=1", *overrides)
    assert any("gives no advantages" in note for note in found) is noted
