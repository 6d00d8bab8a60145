"""Opens the record of a run: its folder, trackers and observers."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from skyrl_train.config.plugin_check import plugin_policy
from skyrl_train.config.resolved import ResolvedRun
from skyrl_train.observers.load_observers import load_observers
from skyrl_train.ranks.ranks import RankLost, Ranks
from skyrl_train.ranks.resume_command import resume_command
from skyrl_train.record.journal import Journal
from skyrl_train.record.progress import Progress
from skyrl_train.tracking.load_trackers import load_trackers
from skyrl_train.tracking.provenance import collect_provenance
from skyrl_train.tracking.run_folder import RunFolder
from skyrl_train.tracking.tracker import RunInfo


def open_journal(
    run: ResolvedRun,
    ranks: Ranks,
    progress: Progress,
    found: Path | None,
    loss_record: dict[str, Any],
) -> Journal:
    """Create or reopen the run folder and start trackers and observers, on rank 0. Collective."""
    if not ranks.is_main:
        path = ranks.broadcast(None)
        if path is None:
            raise RankLost("rank 0 could not start the run; see its error")
        return Journal(Path(path))
    try:
        journal = _open_journal(run, ranks, progress, found, loss_record)
    except Exception:
        ranks.broadcast(None)
        raise
    ranks.broadcast(str(journal.folder))
    return journal


def _open_journal(
    run: ResolvedRun,
    ranks: Ranks,
    progress: Progress,
    found: Path | None,
    loss_record: dict[str, Any],
) -> Journal:
    config, policy = run.config, plugin_policy(run.config)
    if found is not None:
        folder = RunFolder.resume(found.parent.parent)
    else:
        folder = RunFolder.create(config.run_folder, title=loss_record["name"])
    with ExitStack() as undo:
        undo.callback(folder.close)
        observers = load_observers(config.plugins.observers, policy)
        tracker = load_trackers(config.tracking.trackers, policy)
        undo.callback(tracker.close)
        with folder.restored_on_error():
            folder.write_config(run.as_dict())
            folder.start_run(
                {
                    "title": folder.path.name,
                    "loss": loss_record,
                    "loss_changes": progress.loss_changes,
                    "model": config.model,
                    "seeds": {"run": config.seed},
                    "total_steps": config.trainer.steps,
                    "world_size": ranks.world_size,
                }
                | collect_provenance([loss_record["distribution"]])
            )
            if found is not None:
                observers.checkpoint_loading(found)
            tracker.start(
                RunInfo(
                    run_folder=folder.path,
                    title=folder.path.name,
                    loss=loss_record["id"],
                    total_steps=config.trainer.steps,
                    config=run.as_dict(),
                    world_size=ranks.world_size,
                    start_step=progress.step,
                )
            )
            observers.train_start(folder.read_run())
        undo.pop_all()
    journal = Journal(
        folder.path,
        run_folder=folder,
        tracker=tracker,
        observers=observers,
        keep_rollouts=config.tracking.keep_rollouts,
        start_step=progress.step,
        resume_command=resume_command(folder, ranks),
    )
    journal.last_checkpoint = found
    journal.accepts_loss_change = any(change["step"] == progress.step for change in progress.loss_changes[-1:])
    return journal
