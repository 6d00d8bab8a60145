"""The choice of the checkpoint that a run resumes from, and the checks on it."""

import json
from dataclasses import replace

import pytest
from tests.trainer.fixtures.plain_checkpoint import write_state

from skyrl_core.errors import SkyrlError
from skyrl_core.registry.loss_registry import describe_loss
from skyrl_train.checkpoints import resume
from skyrl_train.checkpoints.manifest import DamagedCheckpointError, write_manifest
from skyrl_train.checkpoints.resume import Resumption
from skyrl_train.config.load_config import resolve_run
from skyrl_train.config.resolved import ResolvedRun
from skyrl_train.environments.load_environment import load_environment
from skyrl_train.record.fingerprint import fingerprint_of
from skyrl_train.record.progress import Progress
from skyrl_train.tracking.run_folder import RunFolder

WEIGHTS = "state/mp_rank_00_model_states.pt"
LOSS = describe_loss("dual_clip").record()


@pytest.fixture
def folder(tmp_path):
    """A run folder with three checkpoints."""
    with RunFolder.create(tmp_path / "run", title="t") as owned:
        owned.start_run({})
    for step in (1, 2, 3):
        path = owned.checkpoints / f"step_{step:06d}"
        path.mkdir(parents=True)
        write_state(path)
        write_manifest(path, replace(PROGRESS, step=step, optimizer_steps=2 * step), {})
    return owned.path


def run(
    *, steps: int = 4, accept: bool = False, stage: int = 2, precision: str = "fp32", lora: int | None = None
) -> ResolvedRun:
    options = {"steps": steps, "deepspeed.zero_stage": stage, "deepspeed.precision": precision, "lora.rank": lora}
    overrides = [f"trainer.{key}={json.dumps(value)}" for key, value in options.items()]
    return replace(resolve_run(load_environment, overrides=overrides), accept_loss_change=accept)


PROGRESS = Progress(step=2, optimizer_steps=4, world_size=1, zero_stage=2, loss=LOSS, fingerprint=fingerprint_of(run()))


def found(tmp_path, **changes) -> Resumption:
    return Resumption(path=tmp_path / "step_000002", progress=replace(PROGRESS, **changes))


def damage(folder, step: int) -> None:
    (folder / f"checkpoints/step_{step:06d}" / WEIGHTS).write_bytes(b"0" * 99 + b"1")


def test_an_unchanged_run_resumes_with_its_progress(tmp_path):
    checked = resume.check(found(tmp_path), run(), 1)
    assert checked.progress == PROGRESS
    assert not checked.converts


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "skyrl-core:dual_clip@2"}, r"id: skyrl-core:dual_clip@2 -> skyrl-core:dual_clip@1"),
        ({"files_sha256": "def"}, r"files_sha256: def -> "),
        ({"params": LOSS["params"] | {"clip_high": 0.3}}, r"params\.clip_high: 0\.3 -> 0\.2"),
    ],
)
def test_a_changed_loss_is_refused_unless_it_is_accepted_and_then_recorded(tmp_path, change, message):
    with pytest.raises(SkyrlError, match=message) as error:
        resume.check(found(tmp_path, loss=LOSS | change), run(), 1)
    assert "--accept-loss-change" in str(error.value)
    accepted = resume.check(found(tmp_path, loss=LOSS | change), run(accept=True), 1)
    assert accepted.progress.loss == LOSS
    (record,) = accepted.progress.loss_changes
    assert record["step"] == 2
    assert any(line in str(error.value) for line in record["changes"])
    assert accepted.notes(run(), 1) == [f"accepted change of the loss: {line}" for line in record["changes"]]


def test_an_earlier_change_stays_recorded_and_an_unused_permission_is_not(tmp_path):
    earlier = ({"step": 1, "changes": ["id: a -> b"]},)
    checked = resume.check(found(tmp_path, loss_changes=earlier), run(accept=True), 1)
    assert checked.progress.loss_changes == earlier
    assert checked.notes(run(), 1) == []


@pytest.mark.parametrize(
    ("before", "now", "converts"),
    [((1, 2), (2, 2), True), ((2, 3), (1, 3), True), ((2, 1), (2, 2), True), ((1, 0), (2, 0), False)],
)
def test_another_number_of_ranks_or_a_stage_of_the_same_kind_is_converted(tmp_path, before, now, converts):
    was = found(tmp_path, world_size=before[0], zero_stage=before[1])
    checked = resume.check(was, run(stage=now[1]), now[0])
    assert checked.converts is converts
    if converts:
        assert f"from {before[0]} rank(s) on ZeRO stage {before[1]} to {now[0]}" in checked.notes(run(), now[0])[0]


@pytest.mark.parametrize(
    ("before", "now", "readers"), [(2, 3, "1 or 2"), (1, 0, "1 or 2"), (3, 2, "3"), (0, 2, "0"), (0, 3, "0")]
)
def test_a_stage_of_another_kind_is_refused_with_the_way_out(tmp_path, before, now, readers):
    with pytest.raises(SkyrlError, match=f"zero_stage={readers}, on any number") as error:
        resume.check(found(tmp_path, zero_stage=before), run(stage=now), 1)
    assert "skyrl export" in str(error.value)


def test_another_precision_is_refused(tmp_path):
    with pytest.raises(SkyrlError, match=r"resume with trainer\.deepspeed\.precision=fp32"):
        resume.check(found(tmp_path), run(precision="bf16"), 1)


def test_other_adapters_are_refused(tmp_path):
    with pytest.raises(SkyrlError, match=r"was trained with no LoRA and this run has LoRA \(rank 4, .*trainer\.lora"):
        resume.check(found(tmp_path), run(lora=4), 1)
    adapted = found(tmp_path, lora=resume.lora_of(run(lora=4).config))
    assert resume.check(adapted, run(lora=4), 1).progress == adapted.progress
    with pytest.raises(SkyrlError, match=r"rank 4, .* this run has LoRA .rank 8"):
        resume.check(adapted, run(lora=8), 1)


def test_a_run_that_is_done_has_nothing_to_resume(tmp_path):
    done = replace(found(tmp_path), finished=True)
    for steps in (1, 2):
        with pytest.raises(SkyrlError, match=r"raise trainer\.steps"):
            resume.check(done, run(steps=steps), 1)
    assert resume.check(done, run(steps=3), 1).progress == PROGRESS


def test_a_run_killed_after_its_last_step_can_still_finish(tmp_path):
    assert resume.check(found(tmp_path), run(steps=2), 1).progress == PROGRESS
    with pytest.raises(SkyrlError, match="nothing left to train"):
        resume.check(found(tmp_path), run(steps=1), 1)


def test_the_outcome_is_read_from_the_run_folder(folder):
    assert not resume.find_intact(folder, skip=False).finished
    RunFolder(folder).update_run({"outcome": "finished"})
    assert resume.find_intact(folder, skip=False).finished


def test_the_latest_checkpoint_of_a_run_is_taken(folder):
    assert resume.find_intact(folder, skip=False).progress.step == 3
    assert resume.find_intact(folder / "checkpoints/step_000002", skip=False).progress.step == 2


def test_a_damaged_checkpoint_is_refused_and_skipped_only_when_asked(folder):
    damage(folder, 3)
    (folder / "checkpoints/step_000002/manifest.json").unlink()
    with pytest.raises(
        DamagedCheckpointError, match=r"step_000003 is damaged: state/mp_rank_00_model_states.* --skip-damaged"
    ):
        resume.find_intact(folder, skip=False)
    taken = resume.find_intact(folder, skip=True)
    assert taken.progress.step == 1
    assert taken.notes(run(), 1) == [
        f"skipped: step_000003 is damaged: {WEIGHTS} does not match its hash",
        "skipped: step_000002 is damaged: manifest.json is missing",
        "resuming from step_000001, the newest intact checkpoint",
    ]


def test_only_earlier_checkpoints_replace_a_damaged_named_one(folder):
    damage(folder, 2)
    assert resume.find_intact(folder / "checkpoints/step_000002", skip=True).progress.step == 1


def test_without_an_intact_checkpoint_the_error_lists_the_damage(folder):
    for step in (1, 2, 3):
        damage(folder, step)
    with pytest.raises(SkyrlError, match=r"is intact:\n  step_000003 .*\n  step_000002 .*\n  step_000001 .*"):
        resume.find_intact(folder, skip=True)


def test_a_newer_format_is_not_skipped_as_damage(folder):
    manifest = folder / "checkpoints/step_000003/manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"schema": 99}))
    with pytest.raises(SkyrlError, match="version 99 of the format"):
        resume.find_intact(folder, skip=True)


def test_a_run_of_another_process_is_not_resumed(folder):
    with RunFolder.resume(folder), pytest.raises(SkyrlError, match="is still running in another process"):
        resume.find_intact(folder, skip=False)
    assert resume.find_intact(folder, skip=False).progress.step == 3


def test_a_checkpoint_whose_replacement_is_missing_is_restored(folder):
    path = folder / "checkpoints/step_000003"
    path.rename(path.with_name(".step_000003.replaced"))
    assert resume.find_intact(folder, skip=False).path == path


def test_rank_0_reads_the_checkpoint_and_broadcasts_it(folder, on_ranks):
    asked = replace(run(), resume=folder)
    first, second = on_ranks(2, lambda ranks: resume.choose(asked, ranks))
    assert first == second
    assert first.converts
    assert on_ranks(2, lambda ranks: resume.choose(run(), ranks)) == [None, None]
    damage(folder, 3)
    with pytest.raises(SkyrlError, match=r"is damaged|see its error"):
        on_ranks(2, lambda ranks: resume.choose(asked, ranks))
