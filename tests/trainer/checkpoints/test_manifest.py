"""The manifest of a checkpoint, and every kind of damage that it detects."""

import json
import os

import pytest

from skyrl_core.errors import SkyrlError
from skyrl_train.checkpoints import manifest as checkpoint
from skyrl_train.checkpoints.manifest import MANIFEST, SCHEMA, DamagedCheckpointError, write_manifest
from skyrl_train.record.progress import Progress

PROGRESS = Progress(
    step=3,
    optimizer_steps=6,
    world_size=2,
    zero_stage=3,
    precision="bf16",
    loss={"id": "a:b@1"},
    loss_state={"coef": 0.1 + 0.2},
    loss_changes=({"step": 1, "changes": ["id: a:b@0 -> a:b@1"]},),
)


@pytest.fixture
def saved(tmp_path):
    folder = tmp_path / "step_000003"
    (folder / "state").mkdir(parents=True)
    for name in ("weights", "optimizer"):
        (folder / "state" / f"{name}.bin").write_bytes(name.encode() * 1000)
    write_manifest(folder, PROGRESS, {"packages": {"skyrl-train": "0.1.0"}})
    return folder


def change(folder, **fields):
    content = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(content | fields))


def test_a_manifest_is_read_back_exactly(saved):
    assert checkpoint.read(saved) == PROGRESS
    content = json.loads((saved / MANIFEST).read_text())
    assert content["schema"] == SCHEMA
    assert content["provenance"] == {"packages": {"skyrl-train": "0.1.0"}}
    assert sorted(content["sha256"]) == ["state/optimizer.bin", "state/weights.bin"]


def test_a_flipped_byte_is_named(saved):
    weights = saved / "state" / "weights.bin"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    with pytest.raises(DamagedCheckpointError, match=r"state/weights\.bin does not match its hash"):
        checkpoint.read(saved)


def test_a_truncated_file_is_named(saved):
    os.truncate(saved / "state" / "optimizer.bin", 17)
    with pytest.raises(DamagedCheckpointError, match=r"state/optimizer\.bin does not match its hash"):
        checkpoint.read(saved)


@pytest.mark.parametrize("name", ["state/optimizer.bin", MANIFEST])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(DamagedCheckpointError, match=f"{name} is missing"):
        checkpoint.read(saved)


@pytest.mark.parametrize("name", ["state/optimizer.bin", MANIFEST])
def test_a_file_that_cannot_be_read_is_named(saved, name):
    (saved / name).unlink()
    (saved / name).mkdir()  # even root cannot read a folder as a file
    with pytest.raises(DamagedCheckpointError, match=f"{name} cannot be read \\(Is a directory\\)"):
        checkpoint.read(saved)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not JSON"),
        (b"\x00\xff" * 100, "is not JSON"),
        (b"[]", "holds a list instead of an object"),
        (json.dumps({"sha256": {}, "progress": {"step": 1}}).encode(), "is invalid"),
        (json.dumps({"progress": {}}).encode(), "is invalid"),
        (json.dumps({"sha256": 3, "progress": {}}).encode(), "is invalid"),
    ],
)
def test_a_damaged_manifest_is_an_error_with_a_remedy(saved, content, message):
    (saved / MANIFEST).write_bytes(content)
    with pytest.raises(DamagedCheckpointError, match=message) as error:
        checkpoint.read(saved)
    assert "--skip-damaged" in str(error.value)
    assert str(saved) in str(error.value)


def test_the_first_schema_is_read_with_defaults(saved):
    old = {"step": 3, "optimizer_steps": 6, "world_size": 1, "zero_stage": 2, "loss": {"id": "a:b@1"}, "loss_state": {}}
    content = json.loads((saved / MANIFEST).read_text())
    (saved / MANIFEST).write_text(json.dumps({"progress": old, "sha256": content["sha256"]}))
    assert checkpoint.read(saved) == Progress(**old)


def test_a_newer_schema_is_refused_but_is_not_damage(saved):
    change(saved, schema=SCHEMA + 1, provenance={"packages": {"skyrl-train": "9.1"}}, progress={"unknown": 1})
    with pytest.raises(SkyrlError, match=r"skyrl-train 9\.1, in version 4 of the format") as error:
        checkpoint.read(saved)
    assert not isinstance(error.value, DamagedCheckpointError)
