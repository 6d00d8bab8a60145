"""Exports the model of a checkpoint as a folder that transformers and vLLM load."""

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
from transformers import PreTrainedModel

from skyrl_core.errors import SkyrlError
from skyrl_train.checkpoints import manifest as checkpoint
from skyrl_train.checkpoints.checkpoint_folder import PARTIAL, find
from skyrl_train.checkpoints.model_card import write_card
from skyrl_train.config.schema import RunConfig
from skyrl_train.config.validation import validate
from skyrl_train.config.yaml_text import parse_yaml
from skyrl_train.machine.library_output import quiet
from skyrl_train.policy.adapters import add_adapters, has_adapters, merge_adapters, save_adapters
from skyrl_train.policy.model_loading import load_model, load_tokenizer, tokenizer_files
from skyrl_train.record.progress import Progress
from skyrl_train.tracking.atomic_file import flush_to_disk
from skyrl_train.tracking.run_folder import RunFolder
from skyrl_train.trainer_engine.plain_data import plain_data_only

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
ORIGIN = "skyrl.json"
ADAPTER = "adapter"
"""Subfolder of the adapters, which peft loads; the exported model has them merged already."""

PREFIX = "model."
"""The policy's prefix before the parameter names of its transformers model."""


def export(source: Path, target: Path | None = None, *, reuse: bool = False, trust_remote_code: bool = False) -> Path:
    """Write model, tokenizer, model card and their origin; returns the folder.

    Args:
        source: a checkpoint, or a run folder, whose latest checkpoint is exported.
        target: a folder that does not exist yet; None writes ``exported/step_N`` in the run folder.
        reuse: return a folder that already holds the export of this checkpoint.
        trust_remote_code: run the code that comes with the model. The run's configuration cannot permit it, because
            the run may come from a stranger.

    Raises:
        SkyrlError: no intact checkpoint exists, its model cannot be loaded, or the folder exists or cannot be written.
    """
    quiet()
    found = find(source)
    progress = checkpoint.read(found)
    run_folder = found.parent.parent
    folder = target or run_folder / "exported" / found.name
    config = _config(run_folder / "config.yaml", trust_remote_code=trust_remote_code)
    model_origin = origin(config.model, found, progress)
    if reuse and _holds(folder, model_origin):
        return folder
    if folder.exists():
        raise SkyrlError(f"{folder} already exists and is not overwritten: give another folder, or remove it")
    model = _restored(found, progress, config)
    load_tokenizer(config.model, config.model_options)  # downloads its files if they are missing here
    files = tokenizer_files(config.model, config.model_options)
    write_model(folder, model, files, model_origin, run=RunFolder(run_folder).read_run())
    return folder


def _holds(folder: Path, model_origin: Mapping[str, Any]) -> bool:
    """Whether the folder is a complete export with this origin: it appears only once it is complete."""
    try:
        written = json.loads((folder / ORIGIN).read_bytes())
    except (OSError, ValueError):
        return False
    return bool(written == json.loads(json.dumps(dict(model_origin))))


def trained_model(found: Path, progress: Progress, config: RunConfig) -> PreTrainedModel:
    """The model of a checkpoint that ``checkpoint.read`` has verified, with its adapters merged.

    Raises:
        SkyrlError: the model of its run cannot be loaded, or is a different one.
    """
    model = _restored(found, progress, config)
    merge_adapters(model)
    return model


def _restored(found: Path, progress: Progress, config: RunConfig) -> PreTrainedModel:
    model = load_model(config.model, DTYPES[config.trainer.deepspeed.precision], config.model_options)
    add_adapters(model, config.trainer.lora, seed=config.seed)
    _fill(model, _weights(found, progress.zero_stage), found)
    return model


def _config(file: Path, *, trust_remote_code: bool) -> RunConfig:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise SkyrlError(f"cannot read the configuration of the checkpoint's run: {file}: {error.strerror}") from error
    values = parse_yaml(text, str(file)).value
    config, faults = validate(values if isinstance(values, dict) else {})
    if faults or not isinstance(values, dict):
        lines = [f"  {'.'.join(fault.keys)}: {fault.rule}" for fault in faults] or ["  it holds no options"]
        raise SkyrlError("\n".join([f"{file} is not the configuration of a run:", *lines]))
    options = config.model_options.model_copy(update={"trust_remote_code": trust_remote_code})
    return config.model_copy(update={"model_options": options})


def _weights(found: Path, stage: int) -> dict[str, Tensor]:
    """Every tensor of the policy, complete, and in float32 where the optimizer keeps a float32 copy."""
    try:
        with plain_data_only(found):
            weights = _load(found / "state" / "mp_rank_00_model_states.pt") if stage == 0 else _gather(found)
    except SkyrlError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SkyrlError(f"the state in {found} is not that of a policy: {reason}; use another checkpoint") from error
    return weights


def _load(file: Path) -> dict[str, Tensor]:
    states: dict[str, dict[str, Tensor]] = torch.load(file, map_location="cpu", weights_only=True)
    return dict(states["module"])


def _gather(found: Path) -> dict[str, Tensor]:
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    with contextlib.redirect_stdout(io.StringIO()):  # it prints a line for each tensor
        return dict(get_fp32_state_dict_from_zero_checkpoint(str(found), tag="state"))


def _fill(model: PreTrainedModel, weights: dict[str, Tensor], found: Path) -> None:
    own = {name.removeprefix(PREFIX): tensor for name, tensor in weights.items()}
    try:
        _, unexpected = model.load_state_dict(own, strict=False)
    except RuntimeError as error:  # other shapes
        reason = " ".join(str(error).split()[:60])
        raise SkyrlError(f"{found} does not fit the model of its run: {reason}") from error
    # Frozen parameters are not saved, and an output embedding tied to the input embedding is one parameter.
    missing = {name for name, parameter in model.named_parameters() if parameter.requires_grad} - own.keys()
    if missing or unexpected:
        names = ", ".join([*sorted(missing), *unexpected][:3])
        raise SkyrlError(f"{found} does not fit the model of its run: {names} is missing or unknown")


def origin(model_name: str, found: Path, progress: Progress) -> dict[str, Any]:
    """The origin of an exported model, for its ``skyrl.json``."""
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
    tokenizer: Mapping[str, Path],
    source: Mapping[str, Any],
    *,
    weights: dict[str, Tensor] | None = None,
    run: Mapping[str, Any] | None = None,
) -> None:
    """Write a folder that transformers loads; it appears only once it is complete.

    Args:
        folder: must not exist yet.
        model: the model to write.
        tokenizer: the files of the model's tokenizer, which are copied.
        source: the origin of the model.
        weights: complete tensors by name; None writes those of the model.
        run: the content of run.json, for the model card.

    Raises:
        SkyrlError: the folder cannot be written.
    """
    partial = folder.with_name(f".{folder.name}{PARTIAL}")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # left by an interrupted export
        partial.mkdir(parents=True)
        if weights is None and has_adapters(model):
            save_adapters(model, partial / ADAPTER)
            merge_adapters(model)
        model.save_pretrained(partial, state_dict=weights)
        for name, file in tokenizer.items():
            (partial / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(file, partial / name)
        (partial / ORIGIN).write_text(json.dumps(dict(source), indent=2) + "\n")
        (partial / "README.md").write_text(write_card(source, run or {}), encoding="utf-8")
        for path in (*partial.rglob("*"), partial):
            flush_to_disk(path)
        partial.rename(folder)
        flush_to_disk(folder.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise SkyrlError(f"cannot write {folder}: {reason}; no partial files remain") from error
