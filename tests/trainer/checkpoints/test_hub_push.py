"""An export is pushed to a hub: the real client and a local server that speaks the hub's endpoints."""

import json
from pathlib import Path

import huggingface_hub
import pytest
from tests.trainer.fixtures.local_hub import LocalHub

from skyrl_core.errors import SkyrlError
from skyrl_train.checkpoints.hub_push import check_push, push
from skyrl_train.checkpoints.model_card import write_card

LOSS = {
    "id": "acme-losses:mine@1",
    "distribution": "acme-losses",
    "name": "mine",
    "version": "0.3.0",
    "files_sha256": "ab" * 32,
    "params": {"clip": 0.2},
    "components": [],
}
ORIGIN = {"model": "Qwen/Qwen3-0.6B", "checkpoint": "/home/me/c", "step": 50, "optimizer_steps": 100, "loss": LOSS}
RUN = {
    "before": {"accuracy": 0.46, "accuracy/standard_error": 0.02},
    "after": {"accuracy": 0.85},
    "packages": {"torch": "2.13.0", "acme-losses": "0.3.0"},
    "seeds": {"run": 7},
    "git": {"commit": "0123456789", "dirty": True},
    "command": "skyrl train run_folder=/home/me/run",
    "working_folder": "/home/me",
}


@pytest.fixture
def hub(monkeypatch):
    with LocalHub() as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        yield hub


@pytest.fixture
def exported(tmp_path):
    folder = tmp_path / "step_000050"
    folder.mkdir()
    (folder / "README.md").write_text(write_card(ORIGIN, RUN))
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 500)
    (folder / "skyrl.json").write_text(json.dumps(ORIGIN))
    return folder


def test_every_file_but_the_local_one_arrives_in_a_private_repository(hub, exported):
    address = push(exported, "me/model", source=exported, public=False)
    assert address == f"{hub.url}/me/model"
    repository = hub.repositories["me/model"]
    assert repository["asked"]["visibility"] == "private"
    assert repository["files"] == {name: (exported / name).read_bytes() for name in ("README.md", "model.safetensors")}
    assert hub.tokens == {"Bearer hf_secret"}


def test_a_public_repository_must_be_asked_for_and_an_existing_one_is_used(hub, exported):
    for _ in range(2):
        push(exported, "me/open", source=exported, public=True)
    assert hub.repositories["me/open"]["asked"].get("visibility") in (None, "public")


def test_a_failure_leaves_the_export_and_names_the_command_that_retries(hub, exported):
    before = {path.name: path.read_bytes() for path in exported.iterdir()}
    hub.refusal = (403, {"error": "this token cannot write"})
    retry = f"To retry, run `skyrl export runs/a {exported} --push me/model`; it uses the exported folder"
    with pytest.raises(SkyrlError, match=r"could not be pushed to me/model at http://127\.0\.0\.1") as caught:
        push(exported, "me/model", source=Path("runs/a"), public=False)
    assert "403" in str(caught.value)
    assert retry in str(caught.value)
    assert {path.name: path.read_bytes() for path in exported.iterdir()} == before
    hub.refusal = None
    push(exported, "me/model", source=exported, public=False)
    assert "model.safetensors" in hub.repositories["me/model"]["files"]


def test_a_hub_that_cannot_be_reached_is_an_error(hub, exported, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SkyrlError, match=r"could not be pushed to me/model at http://127\.0\.0\.1:9: .*[Cc]onnect"):
        push(exported, "me/model", source=exported, public=False)
    assert hub.repositories == {}


def test_a_bad_name_and_a_missing_token_are_errors_before_the_export(monkeypatch):
    with pytest.raises(SkyrlError, match="--push a/b/c is not the name of a repository: give OWNER/NAME"):
        check_push("a/b/c")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(SkyrlError, match="set HF_TOKEN, or run `hf auth login`"):
        check_push("a/b")


def test_the_card_names_loss_parameters_and_provenance_but_no_path():
    card = write_card(ORIGIN, RUN)
    metadata = huggingface_hub.ModelCard(card).data
    assert (metadata.base_model, metadata.library_name) == ("Qwen/Qwen3-0.6B", "transformers")
    assert "policy-loss:mine" in metadata.tags
    for fact in (
        "# Qwen3-0.6B trained with mine", "after 50 training steps", "`acme-losses:mine@1`, from acme-losses 0.3.0",
        '"clip": 0.2', "| accuracy | 46.0% ± 2.0 | 85.0% |", "ab" * 32, "torch 2.13.0, acme-losses 0.3.0",
        "seeds: run 7", "`0123456789` with changes",
    ):  # fmt: skip
        assert fact in card, fact
    assert "/home/me" not in card


@pytest.mark.parametrize(
    ("model", "base"), [("tiny", None), ("/home/me/models/mine", None), ("./mine", None), ("org/name", "org/name")]
)
def test_only_a_hub_model_is_named_as_the_base(model, base):
    card = write_card(ORIGIN | {"model": model}, {})
    assert huggingface_hub.ModelCard(card).data.get("base_model") == base
    assert "/home/me" not in card
