"""Checkpoints for another number of ranks: real runs, real DeepSpeed, and an independent reader of its files."""

import hashlib
import os
import shutil
from pathlib import Path

import pytest
import torch

from skyrl_core.errors import SkyrlError
from skyrl_train.checkpoints import manifest as checkpoint
from skyrl_train.checkpoints.rank_conversion import converted

RUN = {
    "trainer.steps": 2,
    "trainer.samples_per_prompt": 2,
    "trainer.algorithm.advantage_estimator": "noisy",
    "rollout.max_new_tokens": 8,
    "evaluation.prompts": 0,
    "checkpoint.every": 1,
    "checkpoint.keep": 5,
    "tracking.trackers": ["console"],
}
State = dict[str, dict[str, torch.Tensor]]


def full_state(path: Path, stage: int) -> State:
    """The unsharded state of each parameter: fp32, exp_avg, exp_avg_sq, and the optimizer's step."""
    state = path / "state"
    if stage == 0:
        return _of_stage_0(torch.load(state / "mp_rank_00_model_states.pt", weights_only=False))
    shards = [
        torch.load(file, weights_only=False)["optimizer_state_dict"] for file in sorted(state.glob("*optim_states.pt"))
    ]
    shapes = torch.load(sorted(state.glob("*model_states.pt"))[0], weights_only=False)["param_shapes"]
    return _of_stage_3(shards, shapes) if stage == 3 else _of_stages_1_and_2(shards, shapes)


def _of_stage_0(states) -> State:
    names = [name for name in states["module"] if not name.endswith("lm_head.weight")]
    moments = states["optimizer"]["state"]
    return {name: {"fp32": states["module"][name], **moments[index]} for index, name in enumerate(names)}


def _of_stages_1_and_2(shards, shapes) -> State:
    """One flat vector, cut into as many equal pieces as there are ranks, padded at its end."""
    flat = {"fp32": torch.cat([shard["single_partition_of_fp32_groups"][0] for shard in shards])}
    optimizers = [shard["base_optimizer_state"]["state"][0] for shard in shards]
    flat |= {key: torch.cat([state[key] for state in optimizers]) for key in ("exp_avg", "exp_avg_sq")}
    found, start = {}, 0
    for name, shape in shapes[0].items():
        found[name] = {key: value[start : start + shape.numel()].view(shape) for key, value in flat.items()}
        found[name]["step"] = optimizers[0]["step"]
        start += shape.numel()
    return found


def _of_stage_3(shards, shapes) -> State:
    """Each parameter is cut separately; its pieces are at the same position in the vectors of all ranks."""
    found, starts = {}, [0] * len(shapes)
    for group, group_shapes in enumerate(shapes):
        for name, shape in group_shapes.items():
            size = -(-shape.numel() // len(shards))
            pieces = {"fp32": [shard["fp32_flat_groups"][group] for shard in shards]}
            states = [shard["optimizer_state_dict"]["state"][group] for shard in shards]
            pieces |= {key: [state[key] for state in states] for key in ("exp_avg", "exp_avg_sq")}
            found[name] = {
                key: torch.cat([p[starts[group] : starts[group] + size] for p in parts])[: shape.numel()].view(shape)
                for key, parts in pieces.items()
            }
            found[name]["step"] = states[0]["step"]
            starts[group] += size
    return found


def assert_same(one: State, other: State) -> None:
    assert one.keys() == other.keys()
    for name, kinds in one.items():
        for key, value in kinds.items():
            assert torch.equal(value, other[name][key]), (name, key)


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


FORMS = [
    ((2, 2), (1, 2), "fp32", 0),
    ((1, 2), (2, 1), "fp32", 0),
    ((1, 3), (2, 3), "fp32", 0),
    ((2, 3), (1, 3), "fp32", 0),
    ((2, 0), (1, 0), "fp32", 0),
    ((2, 2), (1, 2), "bf16", 0),
    ((2, 3), (1, 3), "bf16", 0),
    ((2, 2), (1, 2), "fp32", 4),
    ((1, 3), (2, 3), "fp32", 4),
]
"""Ranks and ZeRO stage before and after, precision, rank of the adapters."""


@pytest.mark.ranks
@pytest.mark.parametrize(("before", "now", "precision", "lora"), FORMS, ids=lambda value: str(value).replace(" ", ""))
def test_conversion_keeps_parameters_and_optimizer_state_and_training_continues(
    zygote, tiny_run, tmp_path, train_rows, before, now, precision, lora
):
    (ranks, stage), (other_ranks, other_stage) = before, now
    folder, reloaded = tmp_path / "run", tmp_path / "reloaded"
    options = RUN | {"trainer.deepspeed.precision": precision, "trainer.deepspeed.zero_stage": stage}
    options |= {"trainer.lora.rank": lora or None}
    zygote.train(tiny_run(options | {"run_folder": str(folder)}), ranks=ranks)
    original = folder / "checkpoints/step_000002"
    untouched, rows = hashes(original), train_rows(folder)

    again = ["reload", str(original), str(reloaded), str(other_stage), precision, str(lora)]
    zygote.train(again, ranks=other_ranks)
    was = full_state(original, stage)
    assert_same(was, full_state(reloaded, other_stage))
    assert {float(kinds["step"]) for kinds in was.values()} == {2.0}
    assert any("lora" in name for name in was) == bool(lora)
    assert any(kinds["exp_avg"].abs().max() > 0 for kinds in was.values())

    options |= {"trainer.steps": 4, "trainer.deepspeed.zero_stage": other_stage}
    output = zygote.train([*tiny_run(options), "--resume", str(folder)], ranks=other_ranks)
    assert hashes(original) == untouched
    assert sorted(os.listdir(original.parent)) == ["latest", *(f"step_{step:06d}" for step in (1, 2, 3, 4))]
    assert {step: row for step, row in train_rows(folder).items() if step <= 2} == rows
    assert list(train_rows(folder)) == [1, 2, 3, 4]
    last = folder / "checkpoints/step_000004"
    progress = checkpoint.read(last)
    assert (progress.world_size, progress.zero_stage) == now
    moved = full_state(last, other_stage)
    assert {float(kinds["step"]) for kinds in moved.values()} == {4.0}
    assert any(not torch.equal(kinds["fp32"], moved[name]["fp32"]) for name, kinds in was.items())
    if stage:
        assert f"converted from {ranks} rank(s) on ZeRO stage {stage} to {other_ranks} on stage {other_stage}" in output


@pytest.mark.train
def test_a_full_disk_during_conversion_leaves_the_checkpoint_intact(zygote, tiny_run, tmp_path, one_rank, small_disk):
    folder = tmp_path / "run"
    zygote.train(tiny_run(RUN | {"trainer.steps": 1, "run_folder": str(folder)}))
    original = small_disk(20) / "step_000001"
    shutil.copytree(folder / "checkpoints/step_000001", original)
    untouched = hashes(original)
    with (
        pytest.raises(SkyrlError, match=r"cannot convert .*: No space left on device; the"),
        converted(original, one_rank),
    ):
        pass
    assert hashes(original) == untouched
    assert os.listdir(original.parent) == ["step_000001"]
