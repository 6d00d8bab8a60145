"""The plan of the ranks of a run and their memory: as lines of text, as JSON, and what prevents a start."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from skyrl_train.config.resolved import ResolvedRun
from skyrl_train.entrypoints.memory_plan import Component, MemoryPlan, plan_memory
from skyrl_train.entrypoints.rank_plan import RankPlan, plan_ranks
from skyrl_train.ranks.launch import OPTION

UNITS = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
SHOWN_RANKS = 8
"""Most ranks whose numbers of sequences are listed one by one."""


@dataclass(frozen=True, kw_only=True)
class MachinePlan:
    """How a run uses its ranks and this machine."""

    ranks: RankPlan
    memory: MemoryPlan
    missing: tuple[str, ...]  # what prevents training from starting on this machine


def plan_machine(run: ResolvedRun, processes: int) -> MachinePlan:
    """The plan for this many processes, or for those that a launcher has started."""
    ranks = plan_ranks(run.config, processes)
    memory = plan_memory(run.config, ranks)
    lacks = _lacks(ranks, memory)
    return MachinePlan(ranks=ranks, memory=memory, missing=(*map(str, run.missing), *lacks))


def _lacks(ranks: RankPlan, memory: MemoryPlan) -> Iterator[str]:
    if 0 < memory.gpus < ranks.local_ranks:
        yield (
            f"{OPTION} {ranks.local_ranks} needs a GPU for each process, and this machine has {memory.gpus}: "
            "start fewer processes"
        )
    elif memory.verdict == "does not fit":
        yield (
            f"memory: {_needs(memory, memory.state('device'), memory.state('host'))} for the states of the model, and "
            f"{_has(memory)}: raise trainer.deepspeed.zero_stage or the number of ranks, set "
            "trainer.deepspeed.offload_optimizer, train adapters (trainer.lora.rank), or choose a smaller model"
        )


def rank_rows(ranks: RankPlan) -> Iterator[tuple[str, str]]:
    """Labels and values about the division of samples."""
    counts = ranks.sequences
    if len(set(counts)) == 1:
        yield "ranks", f"{counts[0]:,} sequences on each rank for each optimizer step"
    elif len(counts) <= SHOWN_RANKS:
        yield "ranks", f"{', '.join(f'{count:,}' for count in counts)} sequences, by rank, for each optimizer step"
    else:
        most = sum(count == max(counts) for count in counts)
        yield "ranks", f"{max(counts):,} sequences on {most} ranks and {min(counts):,} on {len(counts) - most}"
    if ranks.idle_share:
        wait = f"ranks wait {ranks.idle_share:.0%} of an optimizer step for the fullest one"
        if ranks.without_samples:
            first = ranks.ranks - ranks.without_samples
            last = f" to {ranks.ranks - 1}" if ranks.without_samples > 1 else ""
            wait += f"; rank{'s' if last else ''} {first}{last} never get{'' if last else 's'} a sample"
        yield "idle", f"{wait}: a minibatch's prompts do not divide evenly by the ranks"


def memory_rows(memory: MemoryPlan) -> Iterator[tuple[str, str]]:
    """Labels and values about the memory of one rank."""
    uncounted = ", ".join(memory.unknown)
    if memory.parameters is None:
        yield "memory", f"unknown: {uncounted.removeprefix('everything: ')}"
        return
    trained = "all trained" if memory.trained == memory.parameters else f"{memory.trained:,} trained"
    yield "memory", f"{memory.parameters:,} parameters, {trained}; a rank holds"
    yield "", _list(part for part in memory.components if part.phase == "always")
    for phase, what in (("rollout", "sampling"), ("update", "an update"), ("optimizer step", "an optimizer step")):
        parts = [part for part in memory.components if part.phase == phase]
        if parts:
            yield "", f"and during {what}: {_list(parts)}"
    yield "", f"not counted: {uncounted}"
    yield (
        "fits",
        f"{_answer(memory)}: {_needs(memory, memory.peak('device'), memory.peak('host'))} at peak; {_has(memory)}",
    )


def as_json(plan: MachinePlan) -> dict[str, Any]:
    """The sections ``ranks`` and ``memory`` of the plan as JSON values."""
    ranks, memory = plan.ranks, plan.memory
    return {
        "ranks": {
            "count": ranks.ranks,
            "on_this_machine": ranks.local_ranks,
            "sequences_per_optimizer_step": list(ranks.sequences),
            "sequences_per_step": list(ranks.sequences_of_step),
            "micro_batches_per_optimizer_step": ranks.micro_batches,
            "without_samples": ranks.without_samples,
            "idle_share": ranks.idle_share,
        },
        "memory": {
            "parameters": memory.parameters,
            "trained_parameters": memory.trained,
            "device": memory.device,
            "components": [vars(part) for part in memory.components],
            "state_bytes": {place: memory.state(place) for place in ("device", "host")},
            "peak_bytes": {place: memory.peak(place) for place in ("device", "host")},
            "not_counted": list(memory.unknown),
            "limit_bytes": memory.limit,
            "verdict": memory.verdict,
        },
    }


def _list(parts: Iterable[Component]) -> str:
    return ", ".join(f"{part.name} {_size(part.bytes)}{' in main memory' * (part.place == 'host')}" for part in parts)


def _answer(memory: MemoryPlan) -> str:
    return {"fits": "yes", "may not fit": "perhaps not", "does not fit": "no", "unknown": "unknown"}[memory.verdict]


def _needs(memory: MemoryPlan, device: int, host: int) -> str:
    if memory.device == "cuda":
        return f"a rank needs {_size(device)} of its GPU and {_size(host)} of main memory"
    ranks = f"{memory.local_ranks} ranks need" if memory.local_ranks > 1 else "the rank needs"
    return f"{ranks} {_size(memory.local_ranks * (device + host))}"


def _has(memory: MemoryPlan) -> str:
    if memory.limit is None:
        return "the memory of this machine is unknown"
    if memory.device == "cuda":
        return f"the smallest GPU of this machine has {_size(memory.limit)}"
    return f"this machine has {_size(memory.limit)} of main memory"


def _size(count: int) -> str:
    for unit, name in UNITS:
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count} bytes"
