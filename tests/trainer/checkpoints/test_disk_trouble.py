"""Real runs with full disks, read-only folders and damaged files end with one clear message and lose no data."""

import json
import os
import resource
import subprocess
import time

import pytest

from skyrl_train.checkpoints import manifest as checkpoint

pytestmark = pytest.mark.train

RUN = {
    "trainer.steps": 5,
    "trainer.prompts_per_step": 2,
    "trainer.samples_per_prompt": 2,
    "trainer.algorithm.advantage_estimator": "noisy",
    "rollout.max_new_tokens": 4,
    "evaluation.prompts": 0,
    "checkpoint.every": 1,
    "tracking.trackers": ["console"],
}


@pytest.fixture(scope="module")
def healthy(zygote, tiny_run, tmp_path_factory):
    """The same run without trouble."""
    folder = tmp_path_factory.mktemp("healthy") / "run"
    zygote.train(tiny_run(RUN | {"run_folder": str(folder), "checkpoint.keep": 5}))
    return folder


@pytest.fixture
def resumes(zygote, tiny_run, healthy, train_rows, assert_same_state):
    """Check that the run can be resumed and ends like the healthy one."""

    def check(folder, *flags):
        output = zygote.train([*tiny_run(RUN), "--resume", str(folder), *flags])
        assert train_rows(folder) == train_rows(healthy)
        assert_same_state(folder / "checkpoints/step_000005", healthy / "checkpoints/step_000005")
        return output

    return check


def names(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir() if path.name != "latest")


def fails(run) -> str:
    """The only error that the run printed."""
    code, log = run.wait(), run.log.read_text()
    assert code == 2, log
    assert "Traceback" not in log
    errors = [line for line in log.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, log
    return errors[0]


def wait_for(path, run):
    while not path.exists():
        assert run.code is None, run.log.read_text()
        time.sleep(0.005)


def test_a_disk_that_fills_up(zygote, tiny_run, small_disk, resumes):
    disk = small_disk(36)  # room for two checkpoints and the beginning of a third
    folder = disk / "run"
    # Without samples, which are written at the same time and could be the files that find no space.
    run = zygote.start(tiny_run(RUN | {"run_folder": str(folder), "tracking.keep_rollouts": 0}))
    error = fails(run)
    assert "step_000003: No space left on device (" in error
    assert "MiB are free there); earlier checkpoints are intact. Free space" in error
    assert names(folder) == ["step_000001", "step_000002"]
    assert all(checkpoint.read(folder / "checkpoints" / name) for name in names(folder))
    assert json.loads((folder / "run.json").read_text())["outcome"] == "failed"  # the partial checkpoint is gone
    subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
    resumes(folder)


def test_a_limit_on_the_size_of_files(zygote, tiny_run, tmp_path, resumes):
    """The same without mounting a disk, which needs privileges."""
    folder = tmp_path / "run"
    run = zygote.start(tiny_run(RUN | {"run_folder": str(folder)}), halt_after=3)
    with run.halted():  # the first checkpoint is complete; the second may still be written
        resource.prlimit(run.group, resource.RLIMIT_FSIZE, (2**20, 2**20))
    error = fails(run)
    assert ": File too large (" in error
    assert "earlier checkpoints are intact" in error
    assert all(checkpoint.read(folder / "checkpoints" / name) for name in names(folder))
    resumes(folder)


@pytest.fixture
def read_only(tmp_path):
    """Makes a folder read-only, even for root."""
    mounted = []

    def change(folder):
        if os.geteuid() != 0:
            folder.chmod(0o555)
            return
        for options in (["--bind"], ["-o", "remount,ro,bind"]):
            if subprocess.run(
                ["mount", *options, str(folder), str(folder)], capture_output=True, check=False
            ).returncode:
                pytest.skip("root may not mount here")
        mounted.append(folder)

    def undo():
        for folder in mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
        mounted.clear()
        for folder in tmp_path.rglob("checkpoints"):
            folder.chmod(0o755)

    change.undo = undo
    yield change
    undo()


def test_a_folder_that_becomes_read_only(zygote, tiny_run, tmp_path, read_only, resumes):
    folder = tmp_path / "run"
    run = zygote.start(tiny_run(RUN | {"run_folder": str(folder)}), halt_after=3)
    with run.halted():  # the first checkpoint is complete; the second may still be written
        read_only(folder / "checkpoints")
    error = fails(run)
    # The file in the message depends on the progress of the save.
    assert f"cannot write checkpoint {folder}" in error or f"cannot write {folder}" in error or "cannot remove" in error
    assert "Read-only file system" in error or "Permission denied" in error
    read_only.undo()
    resumes(folder)


def test_a_damaged_checkpoint_is_named_and_skipped_only_when_asked(zygote, tiny_run, tmp_path, resumes):
    folder = tmp_path / "run"
    zygote.train(tiny_run(RUN | {"trainer.steps": 3, "run_folder": str(folder)}))
    shard = folder / "checkpoints/step_000003/state/zero_pp_rank_0_mp_rank_00_optim_states.pt"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    before = (folder / "run.json").read_bytes(), (folder / "metrics.jsonl").read_bytes()
    error = fails(zygote.start([*tiny_run(RUN), "--resume", str(folder)]))
    assert f"step_000003 is damaged: state/{shard.name} does not match its hash" in error
    assert "--skip-damaged" in error
    assert ((folder / "run.json").read_bytes(), (folder / "metrics.jsonl").read_bytes()) == before
    output = resumes(folder, "--skip-damaged")
    assert f"skipped: step_000003 is damaged: state/{shard.name} does not match its hash" in output
    assert "resuming from step_000002, the newest intact checkpoint" in output


def test_a_running_run_can_be_neither_resumed_nor_restarted(zygote, tiny_run, tmp_path):
    folder = tmp_path / "run"
    options = tiny_run(RUN | {"trainer.steps": 1000})
    first = zygote.start([*options, f"run_folder={folder}"])
    wait_for(folder / "checkpoints/latest", first)  # which is never removed, unlike a checkpoint
    resumed, begun = (
        fails(zygote.start([*options, *arguments]))
        for arguments in (["--resume", str(folder)], [f"run_folder={folder}"])
    )
    assert "is still running in another process" in resumed
    assert f"in use by process {first.group}" in begun
    done = max(names(folder))
    while max(names(folder)) == done:  # the first run is not affected
        assert first.code is None, first.log.read_text()
        time.sleep(0.01)
    first.kill()


def test_an_accepted_change_of_the_loss_is_recorded_in_the_run_and_in_later_checkpoints(zygote, tiny_run, tmp_path):
    folder = tmp_path / "run"
    zygote.train(tiny_run(RUN | {"trainer.steps": 1, "run_folder": str(folder)}))
    changed = tiny_run(RUN | {"trainer.steps": 3, "trainer.algorithm.dual_clip.clip_high": 0.3})
    resume = [*changed, "--resume", str(folder)]
    run = zygote.start(resume)
    assert "the loss is not the one" in fails(run)
    assert "params.clip_high: 0.2 -> 0.3" in run.log.read_text()
    output = zygote.train([*resume, "--accept-loss-change"])
    assert "accepted change of the loss: params.clip_high: 0.2 -> 0.3" in output
    change = {"step": 1, "changes": ["params.clip_high: 0.2 -> 0.3"]}
    assert json.loads((folder / "run.json").read_text())["loss_changes"] == [change]
    assert checkpoint.read(folder / "checkpoints/step_000003").loss_changes == (change,)
    manifest = json.loads((folder / "checkpoints/step_000003/manifest.json").read_text())
    assert manifest["provenance"]["packages"].keys() >= {"skyrl-train", "torch", "deepspeed"}
    back = tiny_run(RUN | {"trainer.steps": 4, "trainer.algorithm.dual_clip.clip_high": 0.2})
    zygote.train([*back, "--resume", str(folder), "--accept-loss-change"])
    assert [entry["step"] for entry in json.loads((folder / "run.json").read_text())["loss_changes"]] == [1, 3]


def test_another_precision_is_refused_with_the_way_out(zygote, tiny_run, healthy):
    argv = [*tiny_run(RUN | {"trainer.steps": 9, "trainer.deepspeed.precision": "bf16"}), "--resume", str(healthy)]
    assert "resume with trainer.deepspeed.precision=fp32" in fails(zygote.start(argv))
