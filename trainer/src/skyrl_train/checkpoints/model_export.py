"""Writes the model of a checkpoint as a plain folder that transformers and vLLM load."""

import contextlib
import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from skyrl_core.errors import SkyrlError
from skyrl_train.checkpoints import manifest as checkpoint
from skyrl_train.checkpoints.checkpoint_folder import PARTIAL, find
from skyrl_train.config.schema import RunConfig
from skyrl_train.config.yaml_text import parse_yaml
from skyrl_train.machine.library_output import quiet
from skyrl_train.policy.adapters import add_adapters, has_adapters, merge_adapters, save_adapters
from skyrl_train.policy.model_loading import load_model, load_tokenizer
from skyrl_train.record.progress import Progress
from skyrl_train.tracking.atomic_file import flush_to_disk

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
ADAPTER = "adapter"
"""The folder, in that of the model, of adapters that peft loads; the model has them merged already."""

PREFIX = "model."
"""What the policy puts before the names of its transformers model."""


def export(source: Path, target: Path | None = None) -> Path:
    """Write model, tokenizer and where they come from; returns the folder.

    Args:
        source: a run folder, of which the latest checkpoint is taken, or a checkpoint in one.
        target: a folder that is not there yet; None takes ``exported/step_N`` in the run folder.

    Raises:
        SkyrlError: there is no whole checkpoint, its model cannot be loaded, or the folder exists or cannot be written.
    """
    quiet()
    found = find(source)
    progress = checkpoint.read(found)
    run_folder = found.parent.parent
    folder = target or run_folder / "exported" / found.name
    if folder.exists():
        raise SkyrlError(f"{folder} is already there, and is not overwritten: give another folder, or remove it")
    config = _config(run_folder / "config.yaml")
    model, tokenizer = _restored(found, progress, config), load_tokenizer(config.model)
    write_model(folder, model, tokenizer, origin(config.model, found, progress))
    return folder


def trained_model(found: Path, progress: Progress, config: RunConfig) -> PreTrainedModel:
    """The model of a checkpoint that ``checkpoint.read`` has found to be whole, with adapters merged into it.

    Raises:
        SkyrlError: the model of its run cannot be loaded, or is another one.
    """
    model = _restored(found, progress, config)
    merge_adapters(model)
    return model


def _restored(found: Path, progress: Progress, config: RunConfig) -> PreTrainedModel:
    model = load_model(config.model, DTYPES[config.trainer.deepspeed.precision])
    add_adapters(model, config.trainer.lora, seed=config.seed)
    _fill(model, _weights(found, progress.zero_stage), found)
    return model


def _config(file: Path) -> RunConfig:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise SkyrlError(f"the checkpoint has lost its run: {file} cannot be read ({error.strerror})") from error
    return RunConfig.model_validate(parse_yaml(text, str(file)).value)


def _weights(found: Path, stage: int) -> dict[str, Tensor]:
    """Every tensor of the policy, whole and in float32 where an optimizer keeps it so."""
    if stage == 0:
        states: dict[str, dict[str, Tensor]] = torch.load(
            found / "state" / "mp_rank_00_model_states.pt", map_location="cpu", weights_only=False
        )
        return states["module"]
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress for every tensor
        weights: dict[str, Tensor] = get_fp32_state_dict_from_zero_checkpoint(str(found), tag="state")
    return weights


def _fill(model: PreTrainedModel, weights: dict[str, Tensor], found: Path) -> None:
    own = {name.removeprefix(PREFIX): tensor for name, tensor in weights.items()}
    _, unexpected = model.load_state_dict(own, strict=False)
    # What was not trained is not saved, and an output embedding that is tied to the input embedding is one parameter.
    missing = {name for name, parameter in model.named_parameters() if parameter.requires_grad} - own.keys()
    if missing or unexpected:
        names = ", ".join([*sorted(missing), *unexpected][:3])
        raise SkyrlError(f"{found} does not fit the model of its run: {names} is missing or not known")


def origin(model_name: str, found: Path, progress: Progress) -> dict[str, Any]:
    """Where an exported model comes from, for its ``skyrl.json``."""
    return {
        "model": model_name,
        "checkpoint": str(found),
        "step": progress.step,
        "optimizer_steps": progress.optimizer_steps,
        "loss": progress.loss,
    }


def write_model(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    source: Mapping[str, Any],
    *,
    weights: dict[str, Tensor] | None = None,
) -> None:
    """Write a folder that transformers loads; it is complete or not there.

    Args:
        folder: is not there yet.
        model: what the folder describes.
        tokenizer: goes with it.
        source: where the model comes from.
        weights: whole tensors by name, in the place of the model's own.

    Raises:
        SkyrlError: the folder cannot be written.
    """
    aside = folder.with_name(f".{folder.name}{PARTIAL}")
    try:
        shutil.rmtree(aside, ignore_errors=True)  # left by an export that was interrupted
        aside.mkdir(parents=True)
        if weights is None and has_adapters(model):
            save_adapters(model, aside / ADAPTER)
            merge_adapters(model)
        model.save_pretrained(aside, state_dict=weights)
        tokenizer.save_pretrained(aside)
        (aside / "skyrl.json").write_text(json.dumps(dict(source), indent=2) + "\n")
        for path in (*aside.rglob("*"), aside):
            flush_to_disk(path)
        aside.rename(folder)
        flush_to_disk(folder.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise SkyrlError(f"cannot write {folder}: {reason}; nothing was left behind") from error
