"""Finds the checkpoint to resume from, and checks that the run is the one that it belongs to."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from skyrl_core.contract import PolicyLoss
from skyrl_core.errors import SkyrlError
from skyrl_core.registry import ScheduledLoss
from skyrl_train.checkpoints import manifest as checkpoint
from skyrl_train.checkpoints import rank_conversion as conversion
from skyrl_train.checkpoints.checkpoint_folder import candidates, recover
from skyrl_train.checkpoints.manifest import DamagedCheckpointError
from skyrl_train.checkpoints.run_changes import accept, changed_data, changed_options
from skyrl_train.config.load_config import run_folder_of
from skyrl_train.config.resolved import ResolvedRun
from skyrl_train.config.schema import RunConfig
from skyrl_train.data.run_data import RunData
from skyrl_train.ranks.ranks import RankLost, Ranks
from skyrl_train.record.fingerprint import fingerprint_of, with_data
from skyrl_train.record.progress import Progress
from skyrl_train.tracking.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class Resumption:
    """The checkpoint that a run resumes from."""

    path: Path
    progress: Progress
    finished: bool = False  # its run has finished
    skipped: tuple[str, ...] = ()  # later checkpoints that are damaged, with the damage
    converts: bool = False  # it was written by another number of ranks or on another ZeRO stage
    noted: tuple[str, ...] = ()  # differences from its run that do not change the course

    def notes(self, run: ResolvedRun, world_size: int) -> list[str]:
        """Messages to the user about it."""
        lines = [f"skipped: {reason}" for reason in self.skipped]
        if self.skipped:
            lines.append(f"resuming from {self.path.name}, the newest intact checkpoint")
        if self.converts:
            was, stage = self.progress, run.config.trainer.deepspeed.zero_stage
            lines.append(
                f"converted from {was.world_size} rank(s) on ZeRO stage {was.zero_stage} to {world_size} on stage "
                f"{stage}: parameters and optimizer state are the same, later numbers agree up to rounding"
            )
        lines += self.noted
        for kind, changes in (("the loss", self.progress.loss_changes), ("the run", self.progress.accepted_changes)):
            now = [line for change in changes if change["step"] == self.progress.step for line in change["changes"]]
            lines += [f"accepted change of {kind}: {line}" for line in now]
        return lines


def choose(run: ResolvedRun, ranks: Ranks) -> Resumption | None:
    """The checkpoint to resume from; None for a new run. Rank 0 reads it and broadcasts. Collective.

    Raises:
        DamagedCheckpointError: a file of the checkpoint is missing or changed.
        SkyrlError: no checkpoint exists, its run is still running or finished, or it belongs to another loss,
            precision or ZeRO stage.
    """
    if run.resume is None:
        return None
    path = run.resume
    return _on_main(ranks, lambda: check(find_intact(path, skip=run.skip_damaged), run, ranks.world_size))


def start(
    run: ResolvedRun, loss: ScheduledLoss, found: Resumption | None, data: RunData, tokenizer: Any, ranks: Ranks
) -> tuple[Progress, Resumption | None]:
    """The progress of the run, after comparing rows and code and restoring the loss's state. Collective.

    Raises:
        SkyrlError: rows, code or base model differ from those of the checkpoint's run, and the user did not accept it.
    """
    deepspeed = run.config.trainer.deepspeed
    form: dict[str, Any] = {
        "world_size": ranks.world_size,
        "zero_stage": deepspeed.zero_stage,
        "precision": deepspeed.precision,
        "lora": lora_of(run.config),
    }
    if found is None:
        now = with_data(fingerprint_of(run), run, data, tokenizer) if ranks.is_main else None
        identity = run.loss.identity.record()
        return Progress(step=0, optimizer_steps=0, prompts=0, loss=identity, fingerprint=now, **form), None
    chosen = found
    compared = _on_main(ranks, lambda: _compare_data(chosen, run, data, tokenizer))
    current = loss.at(compared.progress.optimizer_steps)
    with loss.calling("load_state_dict"):
        restore(current, compared.progress, accept_change=run.accept_loss_change)
    return replace(compared.progress, **form), compared


def _compare_data(found: Resumption, run: ResolvedRun, data: RunData, tokenizer: Any) -> Resumption:
    now = with_data(fingerprint_of(run), run, data, tokenizer)
    changes = changed_data(found.progress.fingerprint, now)
    progress = replace(accept(found.progress, changes, run, found.path), fingerprint=now)
    return replace(found, progress=progress, noted=(*found.noted, *changes.noted))


def _on_main(ranks: Ranks, work: Callable[[], Resumption]) -> Resumption:
    """The result of rank 0 on all ranks; if it fails, the other ranks point to its error. Collective."""
    if ranks.is_main:
        try:
            resumption = work()
        except Exception:
            ranks.broadcast(None)
            raise
        ranks.broadcast(resumption)
        return resumption
    found: Resumption | None = ranks.broadcast(None)
    if found is None:
        raise RankLost("rank 0 could not resume the run; see its error")
    return found


def find_intact(path: Path, *, skip: bool) -> Resumption:
    """The latest checkpoint of a run folder, or the checkpoint at this path, with every file verified.

    Args:
        path: a run folder or a checkpoint in one.
        skip: skip damaged checkpoints and take the newest intact one, instead of raising an error.

    Raises:
        DamagedCheckpointError: the checkpoint is damaged, and ``skip`` is False.
        SkyrlError: no intact checkpoint exists, or another process is still running the run.
    """
    folder = run_folder_of(path)
    if folder is not None:
        if RunFolder(folder).is_owned():
            raise SkyrlError(
                f"the run in {folder} is still running in another process: wait for it or stop it, then resume"
            )
        recover(folder / "checkpoints")
    skipped: list[str] = []
    for candidate in candidates(path):
        try:
            progress = checkpoint.read(candidate)
        except DamagedCheckpointError as error:
            if not skip:
                raise
            skipped.append(error.summary)
        else:
            finished = folder is not None and RunFolder(folder).read_run().get("outcome") == "finished"
            return Resumption(path=candidate, progress=progress, finished=finished, skipped=tuple(skipped))
    raise SkyrlError(f"no checkpoint in {path} is intact:\n" + "\n".join(f"  {reason}" for reason in skipped))


def check(found: Resumption, run: ResolvedRun, world_size: int) -> Resumption:
    """The checkpoint with the loss of this run, and whether it must be converted.

    Raises:
        SkyrlError: nothing is left to train, or it belongs to another loss, precision or ZeRO stage, or to a run whose
            options change the course of training.
    """
    progress, path, trainer = found.progress, found.path, run.config.trainer
    # A run that was killed after its last checkpoint still has to record its end.
    if progress.step > trainer.steps or (progress.step == trainer.steps and found.finished):
        raise SkyrlError(
            f"nothing left to train: {path} is at step {progress.step} of {trainer.steps}; raise trainer.steps to "
            "continue"
        )
    if progress.precision != trainer.deepspeed.precision:
        raise SkyrlError(
            f"{path} was trained in {progress.precision} and this run is in {trainer.deepspeed.precision}: resume with "
            f"trainer.deepspeed.precision={progress.precision}"
        )
    if progress.lora != lora_of(run.config):
        raise SkyrlError(
            f"{path} was trained with {_describe(progress.lora)} and this run has {_describe(lora_of(run.config))}: "
            "resume with the trainer.lora of the checkpoint's run"
        )
    converts = conversion.is_needed(progress, world_size, trainer.deepspeed.zero_stage)
    loss = run.loss.identity.record()
    changed = _differences(progress.loss, loss)
    if changed and not run.accept_loss_change:
        raise SkyrlError(
            f"the loss is not the one that {path} was trained with:\n"
            + "\n".join(f"  {line}" for line in changed)
            + "\n  add --accept-loss-change to resume anyway"
        )
    accepted = ({"step": progress.step, "changes": changed},) if changed else ()
    now = replace(progress, loss=loss, loss_changes=(*progress.loss_changes, *accepted))
    changes = changed_options(progress.fingerprint, fingerprint_of(run))
    return replace(found, progress=accept(now, changes, run, path), converts=converts, noted=changes.noted)


def lora_of(config: RunConfig) -> dict[str, Any] | None:
    """The adapters of a run in the form of a checkpoint; None if all weights are trained."""
    return None if config.trainer.lora.rank is None else config.trainer.lora.model_dump(mode="json")


def _describe(lora: dict[str, Any] | None) -> str:
    return "no LoRA" if lora is None else f"LoRA ({', '.join(f'{name} {value}' for name, value in lora.items())})"


def restore(loss: PolicyLoss, progress: Progress, *, accept_change: bool) -> None:
    """Restore the state of a loss. An accepted loss that cannot load it starts with a new state.

    Raises:
        SkyrlError: the loss cannot load the state, and no change was accepted.
    """
    try:
        loss.load_state_dict(progress.loss_state)
    except (ValueError, KeyError) as error:
        if not accept_change:
            raise SkyrlError(
                f"the loss cannot load its state from the checkpoint: {error}; add --accept-loss-change to start with "
                "a new state"
            ) from error


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    lines = _changed_facts("", before, now)
    was, parts = before.get("components", []), now.get("components", [])
    for index, (one, other) in enumerate(zip(was, parts, strict=False)):
        lines += _changed_facts(f"components.{index}.", one, other)
    old, new = before.get("params", {}), now.get("params", {})
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            lines.append(f"params.{name}: {old.get(name)} -> {new.get(name)}")
    return lines


def _changed_facts(prefix: str, before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    keys = ("id", "files_sha256")
    return [f"{prefix}{key}: {before.get(key)} -> {now.get(key)}" for key in keys if before.get(key) != now.get(key)]
