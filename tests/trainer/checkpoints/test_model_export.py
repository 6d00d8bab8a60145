"""Exported models have the weights of the checkpoint, bit for bit, on every ZeRO stage."""

import json
import os
import shutil

import pytest
import torch
from tests.trainer.fixtures.local_hub import LocalHub
from transformers import AutoModelForCausalLM, AutoTokenizer

from skyrl_core.errors import SkyrlError
from skyrl_train.checkpoints.model_export import export
from skyrl_train.commands.export import main
from skyrl_train.tiny_model import TINY_MODEL

pytestmark = pytest.mark.train

STAGES = [0, 2, 3]


@pytest.fixture(scope="module")
def runs(train, tmp_path_factory):
    """A run on each stage that ended after one step."""
    folders = {stage: tmp_path_factory.mktemp(f"stage{stage}") / "run" for stage in STAGES}
    for stage, folder in folders.items():
        options = {"trainer.steps": 1, "evaluation.prompts": 0, "trainer.deepspeed.zero_stage": stage}
        train(folder, **options)
    return folders


def loaded(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.mark.parametrize("stage", [0, 2])
def test_the_exported_weights_are_those_that_were_trained(runs, tmp_path, stage):
    folder = export(runs[stage], tmp_path / "model")
    states = torch.load(runs[stage] / "checkpoints/step_000001/state/mp_rank_00_model_states.pt", weights_only=False)[
        "module"
    ]
    weights = loaded(folder).state_dict()
    before = loaded(TINY_MODEL).state_dict()
    trained = {name.removeprefix("model."): tensor for name, tensor in states.items()}
    assert all(torch.equal(weights[name], trained[name]) for name in weights)
    assert any(not torch.equal(weights[name], before[name]) for name in weights)


def test_every_stage_exports_the_same_model(runs, tmp_path):
    models = [loaded(export(runs[stage], tmp_path / str(stage))).state_dict() for stage in STAGES]
    for other in models[1:]:
        assert other.keys() == models[0].keys()
        for name, tensor in other.items():
            torch.testing.assert_close(tensor, models[0][name], rtol=0, atol=1e-6)


def test_the_exported_folder_is_complete_and_records_its_origin(runs, capsys):
    assert main([str(runs[2])]) == 0
    folder = runs[2] / "exported" / "step_000001"
    assert capsys.readouterr().out == f"{folder}\n"
    assert AutoTokenizer.from_pretrained(folder)("1+1=2")["input_ids"]
    origin = json.loads((folder / "skyrl.json").read_text())
    assert (origin["step"], origin["loss"]["id"]) == (1, "skyrl-core:dual_clip@1")
    ids = torch.tensor([AutoTokenizer.from_pretrained(folder)("5+5=")["input_ids"]])
    assert loaded(folder).generate(ids, max_new_tokens=4, do_sample=False).shape[1] > ids.shape[1]


def test_the_exported_tokenizer_is_the_one_of_the_base_model_byte_for_byte(runs, tmp_path):
    before = dict(os.environ)
    folder = export(runs[0], tmp_path / "model")
    assert dict(os.environ) == before
    names = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert {file.name for file in folder.iterdir()} - {file.name for file in TINY_MODEL.iterdir()} <= {
        "README.md",
        "skyrl.json",
    }
    for name in names:
        assert (folder / name).read_bytes() == (TINY_MODEL / name).read_bytes(), name


def test_an_export_is_pushed_and_a_retry_uses_the_exported_folder(runs, tmp_path, capsys, monkeypatch):
    with LocalHub() as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        words = [str(runs[2]), str(tmp_path / "model"), "--push", "me/model"]
        hub.refusal = (403, {"error": "no"})
        with pytest.raises(SkyrlError, match="could not be pushed"):
            main(words)
        written = (tmp_path / "model" / "model.safetensors").stat().st_mtime_ns
        hub.refusal = None
        assert main(words) == 0
        assert capsys.readouterr().out.splitlines()[-2:] == [str(tmp_path / "model"), f"{hub.url}/me/model"]
        files = hub.repositories["me/model"]["files"]
    assert (tmp_path / "model" / "model.safetensors").stat().st_mtime_ns == written
    assert files["model.safetensors"] == (tmp_path / "model" / "model.safetensors").read_bytes()
    assert b"skyrl-core:dual_clip@1" in files["README.md"]
    with pytest.raises(SkyrlError, match="already exists and is not overwritten"):  # another model in the folder
        main([str(runs[0]), *words[1:]])


def test_an_existing_folder_is_not_overwritten(runs, tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(SkyrlError, match="already exists and is not overwritten"):
        export(runs[2], tmp_path / "mine")


def test_a_damaged_checkpoint_is_refused(runs, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(runs[2], copy)
    file = copy / "checkpoints/step_000001/state/mp_rank_00_model_states.pt"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(SkyrlError, match="does not match its hash"):
        export(copy, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_run_without_a_checkpoint_cannot_be_exported(tmp_path):
    with pytest.raises(SkyrlError, match="no complete checkpoint"):
        export(tmp_path)


def test_a_full_disk_leaves_no_partial_files(runs, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", full)
    with pytest.raises(SkyrlError, match="No space left on device; no partial files remain"):
        export(runs[2], tmp_path / "model")
    assert os.listdir(tmp_path) == []
