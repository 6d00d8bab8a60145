"""Exports of checkpoints as transformers folders, written while training continues."""

import copy
import json
import shutil
import threading

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from skyrl_train.checkpoints.background_export import BackgroundExport
from skyrl_train.checkpoints.model_export import export
from skyrl_train.policy.model_loading import tokenizer_files
from skyrl_train.record.progress import Progress

RUN = {
    "trainer.steps": 3,
    "trainer.prompts_per_step": 2,
    "trainer.samples_per_prompt": 2,
    "trainer.algorithm.advantage_estimator": "noisy",
    "rollout.max_new_tokens": 4,
    "evaluation.prompts": 0,
    "checkpoint.every": 1,
    "checkpoint.export": True,
    "tracking.trackers": ["console"],
}
LOSS = {
    "id": "a:b@1",
    "distribution": "a",
    "name": "b",
    "version": "1.0",
    "params": {},
    "files_sha256": "0" * 64,
    "components": [],
}
PROGRESS = Progress(step=1, optimizer_steps=1, world_size=1, zero_stage=2, loss=LOSS)


def loaded(folder, dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).state_dict()


def assert_equal_models(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def check_models(folder, tmp_path, dtype=torch.float32):
    """Every kept checkpoint has a model that equals the export from its sharded state."""
    kept = sorted((folder / "checkpoints").glob("*step_*"))
    assert [path.name for path in kept] == ["step_000002", "step_000003"]
    models = [loaded(path / "model", dtype) for path in kept]
    for path, model in zip(kept, models, strict=True):
        assert not list(path.glob(".*"))
        assert_equal_models(model, loaded(export(path, tmp_path / path.name), dtype))
        assert AutoTokenizer.from_pretrained(path / "model")("1+1=2")["input_ids"]
        assert json.loads((path / "model/skyrl.json").read_text())["checkpoint"] == str(path)
    assert any(not torch.equal(tensor, models[1][name]) for name, tensor in models[0].items())


@pytest.mark.train
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_each_kept_checkpoint_has_its_model_to_the_last_bit(zygote, tiny_run, tmp_path, stage):
    folder = tmp_path / "run"
    zygote.train(tiny_run(RUN | {"run_folder": str(folder), "trainer.deepspeed.zero_stage": stage}))
    check_models(folder, tmp_path)


@pytest.mark.train
@pytest.mark.parametrize("stage", [2, 3])
def test_in_bfloat16(zygote, tiny_run, tmp_path, stage):
    folder = tmp_path / "run"
    options = {"trainer.deepspeed.zero_stage": stage, "trainer.deepspeed.precision": "bf16"}
    zygote.train(tiny_run(RUN | options | {"run_folder": str(folder)}))
    check_models(folder, tmp_path, torch.bfloat16)


@pytest.mark.train
@pytest.mark.parametrize("stage", [2, 3])
def test_adapters_are_merged_into_the_model(zygote, tiny_run, tmp_path, stage):
    folder = tmp_path / "run"
    options = {"trainer.deepspeed.zero_stage": stage, "trainer.lora.rank": 4}
    zygote.train(tiny_run(RUN | options | {"run_folder": str(folder)}))
    check_models(folder, tmp_path)


@pytest.mark.ranks
@pytest.mark.parametrize("stage", [2, 3])
def test_on_two_ranks(zygote, tiny_run, tmp_path, stage):
    folder = tmp_path / "run"
    zygote.train(tiny_run(RUN | {"run_folder": str(folder), "trainer.deepspeed.zero_stage": stage}), ranks=2)
    check_models(folder, tmp_path)


@pytest.mark.train
def test_a_model_that_a_killed_run_did_not_finish_is_made_on_resume(zygote, tiny_run, tmp_path):
    folder = tmp_path / "run"
    zygote.train(tiny_run(RUN | {"run_folder": str(folder)}))
    last = folder / "checkpoints/step_000003"
    wanted = loaded(last / "model")
    shutil.move(last / "model", last / ".model.partial")
    zygote.train([*tiny_run(RUN | {"trainer.steps": 4}), "--resume", str(folder)])
    assert_equal_models(loaded(last / "model"), wanted)
    assert not list((folder / "checkpoints").glob("*/.*"))


class Engine:
    """Stands in for ZeroEngine: a model in this process."""

    def __init__(self, model) -> None:
        self.policy = type("Policy", (), {"model": copy.deepcopy(model)})

    def named_tensors(self):
        return self.policy.model.named_parameters()


class SlowTokenizer:
    """Stands in for a slow disk: writes its files once `room` is set."""

    def __init__(self) -> None:
        self.writing, self.room = threading.Event(), threading.Event()

    def items(self):
        self.writing.set()
        assert self.room.wait(60)
        return []


@pytest.fixture
def slow(small_model, one_rank):
    messages, tokenizer = [], SlowTokenizer()
    exporting = BackgroundExport(Engine(small_model), tokenizer, one_rank, model_name="m", message=messages.append)
    exporting.messages = messages
    yield exporting, tokenizer
    tokenizer.room.set()
    exporting.wait()


def test_training_continues_during_an_export_which_has_the_weights_of_its_checkpoint(slow, small_model, tmp_path):
    exporting, tokenizer = slow
    exporting.start(tmp_path, PROGRESS)  # returns
    assert tokenizer.writing.wait(60)
    with torch.no_grad():
        for parameter in exporting._engine.policy.model.parameters():
            parameter += 1
    assert not (tmp_path / "model").exists()  # it appears only once it is complete
    tokenizer.room.set()
    exporting.wait()
    assert_equal_models(loaded(tmp_path / "model"), small_model.state_dict())
    assert exporting.messages == []


def test_the_export_has_the_copied_weights(slow, small_model, tmp_path):
    exporting, tokenizer = slow
    tokenizer.room.set()
    exporting.copy()
    with torch.no_grad():
        for parameter in exporting._engine.policy.model.parameters():
            parameter += 1
    exporting.write(tmp_path, PROGRESS)  # its checkpoint is complete now
    exporting.wait()
    assert_equal_models(loaded(tmp_path / "model"), small_model.state_dict())


def test_an_existing_model_is_kept(slow, tmp_path):
    exporting, tokenizer = slow
    (tmp_path / "model").mkdir()
    exporting.start(tmp_path, PROGRESS)
    exporting.wait()
    assert not tokenizer.writing.is_set()
    assert list((tmp_path / "model").iterdir()) == []


def test_the_end_of_the_run_waits_for_the_export(slow, tmp_path):
    exporting, tokenizer = slow
    with exporting:
        exporting.start(tmp_path, PROGRESS)
        threading.Timer(0.3, tokenizer.room.set).start()
    assert (tmp_path / "model/model.safetensors").is_file()


def test_a_failure_is_reported_once_and_does_not_end_the_run(slow, tmp_path):
    exporting, tokenizer = slow
    tokenizer.room.set()
    (tmp_path / "step_000001").write_text("a file where a folder should be")
    with exporting:
        exporting.start(tmp_path / "step_000001", PROGRESS)
    (line,) = exporting.messages
    assert "the model of step_000001 was not exported: cannot write" in line
    assert f"skyrl export {tmp_path / 'step_000001'}" in line


@pytest.mark.train
def test_a_full_disk_is_reported_and_no_partial_files_remain(small_model, one_rank, small_disk):
    disk, messages = small_disk(1), []
    big = copy.deepcopy(small_model)
    big.resize_token_embeddings(40_000)
    files = tokenizer_files("tiny")
    with BackgroundExport(Engine(big), files, one_rank, model_name="m", message=messages.append) as exporting:
        exporting.start(disk, PROGRESS)
    assert "No space left on device" in messages[0]
    assert list(disk.iterdir()) == []
