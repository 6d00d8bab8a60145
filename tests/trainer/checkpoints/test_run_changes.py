"""Changes since a checkpoint: each is named, those that change the course of training are refused unless accepted."""

import json
import shutil
from dataclasses import replace

import pytest

from skyrl_core.errors import SkyrlError
from skyrl_core.registry.loss_registry import describe_loss
from skyrl_train.checkpoints import resume
from skyrl_train.checkpoints.resume import Resumption
from skyrl_train.checkpoints.run_changes import UNKNOWN
from skyrl_train.config.load_config import resolve_run
from skyrl_train.data.run_data import load_run_data
from skyrl_train.environments.load_environment import load_environment
from skyrl_train.record.progress import Progress
from skyrl_train.tiny_model import TINY_MODEL

ROWS = [{"prompt": f"{n}+1=", "ground_truth": str(n + 1), "level": n} for n in range(4)]
FALLING = {"schedule": "linear", "start": 1.0, "end": 0.5, "steps": 9}
REWARD = "def reward(completion, row):\n    return 1.0\n"


@pytest.fixture
def begin(tmp_path, tokenizer, one_rank):
    """Resolve a run with these options and load its data; ``found`` is the checkpoint that it resumes from."""
    (tmp_path / "rewards.py").write_text(REWARD)
    write(tmp_path / "train.jsonl", ROWS)
    write(tmp_path / "held_out.jsonl", ROWS[:2])

    def run(*overrides, found=None, accept=False, **options):
        files = {"data.train": "train.jsonl", "data.evaluation": "held_out.jsonl"}
        given = {key: str(tmp_path / name) for key, name in files.items()}
        given |= {"environment.name": f"{tmp_path}/rewards.py:reward", "model": "tiny"} | options
        resolved = resolve_run(
            load_environment,
            overrides=[*(f"{key.replace('__', '.')}={json.dumps(value)}" for key, value in given.items()), *overrides],
            accept_changes=accept,
        )
        if found is not None:
            found = resume.check(found, resolved, 1)
        data = load_run_data(resolved.config, resolved.environment, tokenizer)
        loss = resolved.loss.scheduled()
        return resume.start(resolved, loss, found, data, tokenizer, one_rank)

    return run


@pytest.fixture
def checkpoint(begin, tmp_path):
    """The checkpoint of step 2, as the manifest holds it."""
    progress, _ = begin()
    fingerprint = json.loads(json.dumps(vars(progress.fingerprint)))
    saved = replace(progress, step=2, fingerprint=type(progress.fingerprint)(**fingerprint))
    return Resumption(path=tmp_path / "step_000002", progress=saved)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_same_run_continues_without_a_message(begin, checkpoint):
    progress, resumed = begin(found=checkpoint)
    assert (resumed.noted, progress.accepted_changes) == ((), ())


@pytest.mark.parametrize(
    ("option", "value", "line"),
    [
        ("seed", 1, "seed: 0 -> 1"),
        ("trainer.samples_per_prompt", 2, "trainer.samples_per_prompt: 8 -> 2"),
        ("trainer.prompts_per_step", 3, "trainer.prompts_per_step: 16 -> 3"),
        ("trainer.optimizer.betas", [0.5, 0.9], "trainer.optimizer.betas: [0.9, 0.95] -> [0.5, 0.9]"),
        ("trainer.algorithm.kl_coef", 0.1, "trainer.algorithm.kl_coef: 0.0 -> 0.1"),
        ("trainer.algorithm.advantage_estimator", "rloo", "trainer.algorithm.advantage_estimator: 'grpo' -> 'rloo'"),
        ("trainer.algorithm.grpo.epsilon", 0.5, "trainer.algorithm.grpo.epsilon: 1e-06 -> 0.5"),
        ("rollout.stop", ["x"], "rollout.stop: [] -> ['x']"),
        (
            "rollout.temperature",
            {"schedule": "linear", "start": 1.0, "end": 0.5, "steps": 9},
            "rollout.temperature: 1.0",
        ),
        ("data.shuffle", False, "data.shuffle: True -> False"),
        ("environment.weights", {"a": 2.0}, "environment.weights: {} -> {'a': 2.0}"),
    ],
)
def test_an_option_that_changes_the_course_is_refused_unless_accepted_and_then_recorded(
    begin, checkpoint, option, value, line
):
    with pytest.raises(SkyrlError, match="would not continue as") as error:
        begin(found=checkpoint, **{option: value})
    assert f"\n  {line}" in str(error.value)
    assert "add --accept-changes" in str(error.value)
    progress, resumed = begin(found=checkpoint, accept=True, **{option: value})
    (record,) = progress.accepted_changes
    assert record["step"] == 2
    assert any(change.startswith(line) for change in record["changes"])
    assert f"accepted change of the run: {record['changes'][0]}" in resumed.notes(None, 1)
    again = Resumption(path=checkpoint.path, progress=progress)
    assert begin(found=again, **{option: value})[0].accepted_changes == progress.accepted_changes


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        (ROWS[:3], "data.train: 4 rows -> 3 rows"),
        ([*ROWS, ROWS[0]], "data.train: 4 rows -> 5 rows"),
        (ROWS[::-1], "data.train: the content or order of the 4 rows changed"),
        ([ROWS[0] | {"ground_truth": "9"}, *ROWS[1:]], "data.train: the content or order of the 4 rows changed"),
        ([ROWS[0] | {"level": 9}, *ROWS[1:]], "data.train: the content or order of the 4 rows changed"),
    ],
)
def test_changed_rows_are_refused_unless_accepted(begin, checkpoint, tmp_path, rows, line):
    write(tmp_path / "train.jsonl", rows)
    with pytest.raises(SkyrlError, match=line):
        begin(found=checkpoint)
    progress, _ = begin(found=checkpoint, accept=True)
    assert progress.accepted_changes == ({"step": 2, "changes": [line]},)
    assert progress.fingerprint.data["data.train"]["rows"] == len(rows)


def test_the_same_rows_in_another_file_are_the_same_data(begin, checkpoint, tmp_path):
    (tmp_path / "train.jsonl").rename(tmp_path / "moved.jsonl")
    assert begin(found=checkpoint, **{"data.train": str(tmp_path / "moved.jsonl")})[1].noted == ()


def test_a_changed_chat_template_is_refused(begin, checkpoint, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", "{{ messages[0].content }}!")
    with pytest.raises(SkyrlError, match=r"data\.train: the same rows give other tokens"):
        begin(found=checkpoint)


def test_an_edited_reward_function_is_refused(begin, checkpoint, tmp_path):
    import sys

    (tmp_path / "rewards.py").write_text(REWARD.replace("1.0", "2.0"))
    for name in [name for name in sys.modules if name.startswith("skyrl_reward_")]:
        del sys.modules[name]  # as in a new process
    with pytest.raises(SkyrlError, match=r"content of environment .*rewards\.py:reward: [0-9a-f]{12} -> [0-9a-f]{12}"):
        begin(found=checkpoint)


def test_other_weights_under_the_same_name_are_refused(begin, checkpoint, tmp_path):
    shutil.copytree(TINY_MODEL, tmp_path / "base")
    (weights,) = (tmp_path / "base").glob("*.safetensors")
    progress, _ = begin(model=str(tmp_path / "base"))
    found = replace(checkpoint, progress=replace(progress, step=2))
    assert begin(found=found, model=str(tmp_path / "base"))[0].accepted_changes == ()
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    with pytest.raises(SkyrlError, match=r"content of base model: [0-9a-f]{12} -> [0-9a-f]{12}"):
        begin(found=found, model=str(tmp_path / "base"))


def test_held_out_rows_steps_and_packages_are_noted(begin, checkpoint, tmp_path):
    write(tmp_path / "held_out.jsonl", ROWS[2:])
    packages = checkpoint.progress.fingerprint.packages | {"torch": "2.0"}
    older = replace(checkpoint.progress.fingerprint, packages=packages)
    found = replace(checkpoint, progress=replace(checkpoint.progress, fingerprint=older))
    progress, resumed = begin(found=found, **{"trainer.steps": 999})
    assert progress.accepted_changes == ()
    assert [line.partition(" -> ")[0] for line in resumed.noted] == [
        "changed since the checkpoint: trainer.steps: 100",
        "changed since the checkpoint: package torch: 2.0",
        "changed since the checkpoint: data.evaluation: the content or order of the 2 rows changed",
    ]
    assert progress.fingerprint.packages["torch"] != "2.0"


@pytest.mark.parametrize(
    "option",
    ["trainer.micro_batch_size=1", "checkpoint.every=7", "tracking.keep_rollouts=9", "environment.workers=2"],
)
def test_an_option_that_changes_nothing_is_free(begin, checkpoint, option):
    assert begin(option, found=checkpoint)[1].noted == ()


def test_an_option_that_did_not_exist_then_counts_as_its_default(begin, checkpoint):
    del checkpoint.progress.fingerprint.options["rollout.top_p"]
    assert begin(found=checkpoint)[0].accepted_changes == ()
    with pytest.raises(SkyrlError, match=r"rollout\.top_p: absent -> 0\.5"):
        begin(found=checkpoint, **{"rollout.top_p": 0.5})


def test_a_checkpoint_without_a_fingerprint_is_resumed_with_a_message(begin, tmp_path):
    form = {"step": 2, "optimizer_steps": 2, "world_size": 1, "zero_stage": 2}
    old = Progress(loss=describe_loss("dual_clip").record(), **form)
    progress, resumed = begin(found=Resumption(path=tmp_path / "step_000002", progress=old), seed=7)
    assert resumed.notes(None, 1) == [UNKNOWN]
    assert progress.fingerprint.options["seed"] == 7
