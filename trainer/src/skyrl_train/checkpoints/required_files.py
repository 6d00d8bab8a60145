"""The files that the state of a checkpoint consists of, by number of ranks and ZeRO stage."""

from collections.abc import Collection, Iterator
from pathlib import Path

from skyrl_train.record.progress import Progress

FOLDERS = ("state", "random")
"""Every file below these folders is loaded, so each must be in the manifest."""


def find_gap(progress: Progress, listed: Collection[str], checkpoint: Path, *, has_random: bool) -> str | None:
    """The first file that the state needs and the manifest lacks, as a message; None if it lists all."""
    if progress.world_size > len(listed):
        return f"its manifest is that of {progress.world_size} ranks and lists {len(listed)} files"
    for names in _required(progress, has_random=has_random):
        if not any(name in listed for name in names):
            return f"its manifest lacks {names[0]}"
    for folder in FOLDERS:
        for path in sorted((checkpoint / folder).rglob("*")):
            name = path.relative_to(checkpoint).as_posix()
            if name not in listed and (path.is_symlink() or not path.is_dir()):
                return f"{name} is not in its manifest"
    return None


def _required(progress: Progress, *, has_random: bool) -> Iterator[tuple[str, ...]]:
    """The names that each file may have."""
    if progress.zero_stage < 3:
        yield ("state/mp_rank_00_model_states.pt",)
    for rank in range(progress.world_size):
        shard = f"zero_pp_rank_{rank}_mp_rank_00"
        if progress.zero_stage == 3:
            yield (f"state/{shard}_model_states.pt",)
        if progress.zero_stage > 0:
            yield f"state/{shard}_optim_states.pt", f"state/bf16_{shard}_optim_states.pt"
        if has_random:
            yield (f"random/rank_{rank:05d}.pt",)
