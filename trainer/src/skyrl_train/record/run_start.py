"""Opens the record of a run: its folder, trackers and observers."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from skyrl_core.redaction import redact_text
from skyrl_core.registry import LossIdentity
from skyrl_train.config.resolved import ResolvedRun
from skyrl_train.observers.load_observers import load_observers
from skyrl_train.ranks.ranks import RankLost, Ranks
from skyrl_train.ranks.resume_command import resume_command
from skyrl_train.record.journal import Journal
from skyrl_train.record.progress import Progress
from skyrl_train.tracking.load_trackers import load_trackers
from skyrl_train.tracking.output_log import OUTPUT_LOG
from skyrl_train.tracking.provenance import collect_provenance
from skyrl_train.tracking.run_folder import RunFolder
from skyrl_train.tracking.tracker import RunInfo


def open_journal(run: ResolvedRun, ranks: Ranks, progress: Progress, found: Path | None) -> Journal:
    """Create or reopen the run folder and start trackers and observers, on rank 0. Collective."""
    if not ranks.is_main:
        path = ranks.broadcast(None)
        if path is None:
            raise RankLost("rank 0 could not start the run; see its error")
        OUTPUT_LOG.open(Path(path), ranks.rank)
        return Journal(Path(path))
    try:
        journal = _open_journal(run, ranks, progress, found)
    except Exception:
        ranks.broadcast(None)
        raise
    ranks.broadcast(str(journal.folder))
    OUTPUT_LOG.open(journal.folder, ranks.rank)
    return journal


def _open_journal(run: ResolvedRun, ranks: Ranks, progress: Progress, found: Path | None) -> Journal:
    config, loss, folder = run.config, run.loss.identity, _own_folder(run, found)
    with ExitStack() as undo:
        undo.callback(folder.close)
        observers = load_observers(run.observers)
        tracker = load_trackers(run.trackers)
        undo.callback(tracker.close)
        with folder.restored_on_error():
            folder.write_config(run.as_dict())
            folder.start_run(
                {
                    "title": folder.path.name,
                    "loss": loss.record(),
                    "loss_changes": progress.loss_changes,
                    "accepted_changes": progress.accepted_changes,
                    "model": redact_text(config.model),
                    "seeds": {"run": config.seed},
                    "total_steps": config.trainer.steps,
                    "world_size": ranks.world_size,
                }
                | collect_provenance(_distributions(loss))
            )
            if found is not None:
                observers.checkpoint_loading(found)
            info = RunInfo(
                run_folder=folder.path,
                title=folder.path.name,
                loss=str(loss),
                total_steps=config.trainer.steps,
                config=run.as_dict(),
                world_size=ranks.world_size,
                start_step=progress.step,
            )
            notes = folder.record.start(info)
            tracker.start(info)
            for note in notes:
                tracker.message(note)
            observers.train_start(folder.read_run())
        undo.pop_all()
    journal = Journal(
        folder.path,
        run_folder=folder,
        tracker=tracker,
        observers=observers,
        keep_rollouts=config.tracking.keep_rollouts,
        start_step=progress.step,
        resume_command=resume_command(folder, ranks, python_call=run.python_call),
    )
    journal.last_checkpoint = found
    for option, changes in (
        ("accept_loss_change", progress.loss_changes),
        ("accept_changes", progress.accepted_changes),
    ):
        if any(change["step"] == progress.step for change in changes[-1:]):
            journal.accepts = option
    return journal


def _own_folder(run: ResolvedRun, found: Path | None) -> RunFolder:
    if found is None:
        return RunFolder.create(run.config.run_folder, title=run.loss.identity.name, is_private=run.holds_secrets)
    folder = RunFolder.resume(found.parent.parent)
    if run.holds_secrets:
        folder.make_private()
    return folder


def _distributions(loss: LossIdentity) -> Iterator[str]:
    """The distributions of a loss and of the losses that it is composed of."""
    yield loss.distribution
    for part in loss.components:
        yield from _distributions(part)
