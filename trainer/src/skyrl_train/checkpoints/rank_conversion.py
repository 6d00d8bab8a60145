"""Converts checkpoints for another number of ranks or ZeRO stage, by DeepSpeed's universal checkpoint.

The converted copy is hidden next to the checkpoint, which is not changed, and is deleted once the ranks have read it.
The next checkpoint of the run has the new form.
"""

import argparse
import contextlib
import io
import shutil
from collections.abc import Iterator
from pathlib import Path

from skyrl_core.errors import SkyrlError
from skyrl_train.checkpoints.checkpoint_folder import CONVERTED, failure_reason
from skyrl_train.ranks.ranks import Ranks
from skyrl_train.record.progress import Progress
from skyrl_train.trainer_engine.plain_data import plain_data_only

_COMPATIBLE = (frozenset({0}), frozenset({1, 2}), frozenset({3}))
"""ZeRO stages that write optimizer state in the same form."""


def is_needed(progress: Progress, world_size: int, stage: int) -> bool:
    """Whether DeepSpeed cannot read the checkpoint as it is.

    Raises:
        SkyrlError: it cannot be converted to this stage either.
    """
    if progress.zero_stage == stage and (stage == 0 or progress.world_size == world_size):
        return False  # on stage 0 every rank has the complete state, and rank 0 saved it
    compatible = next(stages for stages in _COMPATIBLE if progress.zero_stage in stages)
    if stage not in compatible:
        readers = " or ".join(map(str, sorted(compatible)))
        raise SkyrlError(
            f"the checkpoint was written on ZeRO stage {progress.zero_stage} and this run is on stage {stage}: "
            "DeepSpeed converts optimizer state between stages 1 and 2 and between numbers of ranks, but stages 0 and "
            f"3 keep it in other forms. Resume with trainer.deepspeed.zero_stage={readers}, on any number of ranks; or "
            f"start a new run on stage {stage} from the weights only: `skyrl export RUN FOLDER`, then model=FOLDER"
        )
    return True


@contextlib.contextmanager
def converted(checkpoint: Path, ranks: Ranks) -> Iterator[Path]:
    """A copy of the checkpoint for any number of ranks; it is deleted when the block ends. Collective.

    Raises:
        SkyrlError: it cannot be converted; for example, the disk has no space for the copy, which is as large.
    """
    copy = checkpoint.with_name(f".{checkpoint.name}{CONVERTED}")
    problem = _convert(checkpoint, copy) if ranks.is_main else None
    problem = ranks.broadcast(problem)
    if problem is not None:
        raise SkyrlError(problem)
    try:
        yield copy
    finally:
        ranks.gather(None)  # every rank has read it
        if ranks.is_main:
            shutil.rmtree(copy, ignore_errors=True)  # whatever remains is hidden, and the next save removes it


def _convert(checkpoint: Path, copy: Path) -> str | None:
    from deepspeed.checkpoint.ds_to_universal import main

    arguments = argparse.Namespace(
        input_folder=str(checkpoint / "state"),
        output_folder=str(copy / "state"),
        num_extract_workers=1,  # more would fork a process that holds a process group
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,  # the list of parameters that tensor parallelism splits: none
    )
    output = io.StringIO()
    try:
        shutil.rmtree(copy, ignore_errors=True)  # left by a run that was killed
        Path(arguments.output_folder).mkdir(parents=True)
        # DeepSpeed prints a bar for each parameter.
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output), plain_data_only(checkpoint):
            main(arguments)
    except SkyrlError as error:
        shutil.rmtree(copy, ignore_errors=True)
        return str(error)
    except Exception as error:  # noqa: BLE001  # DeepSpeed and the unpickler raise many kinds
        reason = failure_reason(error, checkpoint.parent)
        shutil.rmtree(copy, ignore_errors=True)
        return f"cannot convert {checkpoint} for another number of ranks: {reason}; the checkpoint is intact"
    return None
