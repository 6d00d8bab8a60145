"""The manifest of a checkpoint, and every kind of damage that it detects."""

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from tests.trainer.fixtures.plain_checkpoint import rewrite_manifest, write_state

from skyrl_core.errors import SkyrlError
from skyrl_train.checkpoints import manifest as checkpoint
from skyrl_train.checkpoints.manifest import LARGEST, MANIFEST, SCHEMA, DamagedCheckpointError, write_manifest
from skyrl_train.record.progress import Fingerprint, Progress

PROGRESS = Progress(
    step=3,
    optimizer_steps=6,
    prompts=12,
    world_size=2,
    zero_stage=3,
    precision="bf16",
    loss={"id": "a:b@1"},
    loss_state={"coef": 0.1 + 0.2},
    loss_changes=({"step": 1, "changes": ["id: a:b@0 -> a:b@1"]},),
    fingerprint=Fingerprint(options={"seed": 0, "rollout.temperature": 1.0}, data={"data.train": {"rows": 4}}),
    accepted_changes=({"step": 1, "changes": ["seed: 1 -> 0"]},),
)
WEIGHTS, OPTIMIZER = (
    "state/zero_pp_rank_0_mp_rank_00_model_states.pt",
    "state/zero_pp_rank_1_mp_rank_00_optim_states.pt",
)


@pytest.fixture
def saved(tmp_path):
    folder = tmp_path / "step_000003"
    write_state(folder, ranks=2, stage=3)
    write_manifest(folder, PROGRESS, {"packages": {"skyrl-train": "0.1.0"}})
    return folder


def content_of(folder) -> dict[str, Any]:
    return json.loads((folder / MANIFEST).read_text())


def edits(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The path of every value in a manifest."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield (*path, key)
        yield from edits(part, (*path, key))


def edited(content: dict[str, Any], path: tuple, new: Any) -> dict[str, Any]:
    """A copy with another value at a path, or without it if the value is Ellipsis."""
    copy = json.loads(json.dumps(content))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    if new is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = new
    return copy


def test_a_manifest_is_read_back_exactly(saved):
    assert checkpoint.read(saved) == PROGRESS
    content = content_of(saved)
    assert content["schema"] == SCHEMA
    assert content["provenance"] == {"packages": {"skyrl-train": "0.1.0"}}
    assert sorted(content["sha256"]) == write_state(saved, ranks=2, stage=3)


def test_no_value_can_be_edited_or_removed(saved):
    content = content_of(saved)
    paths = list(edits(content))
    assert len(paths) > 40
    for path in paths:
        for new in (..., None, "x", -1, 10**400, [], {}, True):
            text = json.dumps(edited(content, path, new))
            if text == json.dumps(content):
                continue
            (saved / MANIFEST).write_text(text)
            with pytest.raises(SkyrlError, match=r"is damaged: manifest\.json"):
                checkpoint.read(saved)


def test_a_manifest_with_a_checksum_made_for_wrong_values_is_an_error_without_a_traceback(saved):
    """Whatever somebody writes who knows the format: the values that the trainer computes with are validated."""
    content = content_of(saved)
    for path in edits(content):
        if path[0] == "provenance" or path[:2] == ("progress", "fingerprint"):
            continue  # free text, compared but not computed with
        for new in ("x", -1, 10**400, [None], {"a": []}):
            rewrite_manifest(saved, edited(content, path, new))
            try:
                checkpoint.read(saved)
            except DamagedCheckpointError as error:
                assert str(error).count("\n") == 0  # noqa: PT017
            except SkyrlError:
                assert path == ("schema",)


@pytest.mark.parametrize("step", [2, 4])
def test_the_step_is_that_of_the_folder(saved, step):
    renamed = saved.rename(saved.with_name(f"step_{step:06d}"))
    with pytest.raises(DamagedCheckpointError, match=r"manifest\.json is that of step 3"):
        checkpoint.read(renamed)
    assert checkpoint.read(renamed.rename(renamed.with_name("copy"))) == PROGRESS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"world_size": 3}, "lacks state/zero_pp_rank_2_mp_rank_00_model_states.pt"),
        ({"world_size": 10**12}, "that of 1000000000000 ranks and lists 6 files"),
        ({"zero_stage": 2}, "lacks state/mp_rank_00_model_states.pt"),
    ],
)
def test_a_manifest_lists_every_file_that_the_state_needs(saved, change, message):
    content = content_of(saved)
    rewrite_manifest(saved, content | {"progress": content["progress"] | change})
    with pytest.raises(DamagedCheckpointError, match=message):
        checkpoint.read(saved)


@pytest.mark.parametrize("name", [WEIGHTS, OPTIMIZER, "random/rank_00001.pt"])
def test_a_file_that_the_manifest_leaves_out_is_named(saved, name):
    content = content_of(saved)
    files = {other: value for other, value in content["sha256"].items() if other != name}
    rewrite_manifest(saved, content | {"sha256": files})
    with pytest.raises(DamagedCheckpointError, match=f"its manifest lacks {name}"):
        checkpoint.read(saved)


@pytest.mark.parametrize("name", ["state/zero_pp_rank_2_mp_rank_00_optim_states.pt", "random/deep/er.pt"])
def test_a_file_of_the_state_that_the_manifest_does_not_know_is_named(saved, name):
    (saved / name).parent.mkdir(exist_ok=True)
    (saved / name).write_bytes(b"0")
    with pytest.raises(DamagedCheckpointError, match=f"{name} is not in its manifest"):
        checkpoint.read(saved)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "state/../../outside", "a//b", "./a", "", "a\0b", "é"])
def test_a_name_outside_of_the_checkpoint_is_refused(saved, name):
    (saved.parent / "outside").write_bytes(b"0")
    content = content_of(saved)
    rewrite_manifest(saved, content | {"sha256": content["sha256"] | {name: "0" * 64}})
    with pytest.raises(DamagedCheckpointError, match=r"manifest\.json is invalid \(sha256"):
        checkpoint.read(saved)


@pytest.mark.parametrize("name", [WEIGHTS, "state"])
def test_a_link_is_refused(saved, name):
    (saved / name).rename(saved.parent / "elsewhere")
    (saved / name).symlink_to(saved.parent / "elsewhere")
    with pytest.raises(DamagedCheckpointError, match=r"is a link; .*cp -rL"):
        checkpoint.read(saved)


@pytest.mark.parametrize("name", [WEIGHTS, MANIFEST])
def test_a_pipe_does_not_block_the_reader(saved, name):
    (saved / name).unlink()
    os.mkfifo(saved / name)
    with pytest.raises(DamagedCheckpointError, match=f"{name} is not a regular file"):
        checkpoint.read(saved)


def test_a_flipped_byte_is_named(saved):
    weights = saved / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    with pytest.raises(DamagedCheckpointError, match=f"{WEIGHTS} does not match its hash"):
        checkpoint.read(saved)


def test_a_truncated_file_is_named(saved):
    os.truncate(saved / OPTIMIZER, 17)
    with pytest.raises(DamagedCheckpointError, match=f"{OPTIMIZER} does not match its hash"):
        checkpoint.read(saved)


@pytest.mark.parametrize("name", [OPTIMIZER, MANIFEST])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(DamagedCheckpointError, match=f"{name} is missing"):
        checkpoint.read(saved)


@pytest.mark.parametrize("name", [OPTIMIZER, MANIFEST])
def test_a_file_that_cannot_be_read_is_named(saved, name):
    (saved / name).unlink()
    (saved / name).mkdir()  # even root cannot read a folder as a file
    with pytest.raises(DamagedCheckpointError, match=f"{name} cannot be read \\(Is a directory\\)"):
        checkpoint.read(saved)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"\x00\xff" * 100, "is not JSON"),
        (b'{"a":' * 100_000, "is not JSON"),
        (b'{"schema": ' + b"9" * 5000 + b"}", "is not JSON"),
        (b" " * (LARGEST + 1), "is too large"),
        (b"[]", "holds a list instead of an object"),
        (json.dumps({"sha256": {}, "progress": {"step": 1}}).encode(), "is invalid"),
        (json.dumps({"progress": {}}).encode(), "is invalid"),
        (json.dumps({"sha256": 3, "progress": {}}).encode(), "is invalid"),
        (b'{"schema": 4, "progress": "\\ud800"}', "does not match its checksum|is invalid"),
    ],
    ids=range(11),
)
def test_a_damaged_manifest_is_an_error_with_a_remedy(saved, content, message):
    (saved / MANIFEST).write_bytes(content)
    with pytest.raises(DamagedCheckpointError, match=message) as error:
        checkpoint.read(saved)
    assert "--skip-damaged" in str(error.value)
    assert str(saved) in str(error.value)


@pytest.mark.parametrize("schema", [None, 2, 3])
def test_an_earlier_schema_is_read_with_defaults(saved, schema):
    old = {"step": 3, "optimizer_steps": 6, "world_size": 2, "zero_stage": 3, "loss": {"id": "a:b@1"}, "loss_state": {}}
    version = {} if schema is None else {"schema": schema, "provenance": {}}
    content = {"progress": old, "sha256": content_of(saved)["sha256"]} | version
    (saved / MANIFEST).write_text(json.dumps(content))
    assert checkpoint.read(saved) == Progress(**old)


def test_a_newer_schema_is_refused_but_is_not_damage(saved):
    newer = {"schema": SCHEMA + 1, "provenance": {"packages": {"skyrl-train": "9.1"}}, "progress": {"unknown": 1}}
    (saved / MANIFEST).write_text(json.dumps(content_of(saved) | newer))
    with pytest.raises(SkyrlError, match=r"skyrl-train 9\.1, in version 5 of the format") as error:
        checkpoint.read(saved)
    assert not isinstance(error.value, DamagedCheckpointError)
