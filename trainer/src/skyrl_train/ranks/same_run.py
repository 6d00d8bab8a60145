"""Checks that all ranks train the same: loss, configuration, data, packages. Runs before DeepSpeed starts.

A rank with another learning rate, another version of the loss's file or other rows would train something else, without
an error. Facts of a machine, such as its name, may differ.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from skyrl_core.discovery import installed_version
from skyrl_core.errors import SkyrlError
from skyrl_train.config.resolved import ResolvedRun
from skyrl_train.data.prompt_source import PromptSource
from skyrl_train.ranks.ranks import Ranks

PACKAGES = ("skyrl-core", "skyrl-train", "torch", "deepspeed", "accelerate", "transformers")
"""The packages that compute the numbers. The distribution of the loss is part of its identity."""

FIRST_ROWS = 64
SHOWN = 20


def check_run(ranks: Ranks, run: ResolvedRun) -> None:
    """Compare the configuration, loss and packages of all ranks. Collective.

    It must be the first collective: ranks with different configurations would call different ones next.

    Raises:
        SkyrlError: some ranks differ. Names each difference and its ranks; the same error on all ranks.
    """
    packages = {name: installed_version(name) for name in PACKAGES}
    resume = None if run.resume is None else str(run.resume)
    loss = run.loss.identity.record()
    _compare(ranks, {"loss": loss, "config": run.as_dict(), "packages": packages, "resume": resume})


def check_data(ranks: Ranks, sources: Mapping[str, PromptSource | None]) -> None:
    """Compare the prompts of each split, and their order. Collective.

    Raises:
        SkyrlError: some ranks differ. Names each difference and its ranks; the same error on all ranks.
    """
    _compare(ranks, {"data": {split: _rows(source) for split, source in sources.items()}})


def _compare(ranks: Ranks, facts: dict[str, Any]) -> None:
    parts = ranks.gather(dict(_flat(facts)))
    keys = dict.fromkeys(key for part in parts for key in part)
    lines = [f"  {key}: {_values([part.get(key) for part in parts])}" for key in keys if _differs(key, parts)]
    if lines:
        more = [f"  and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
        raise SkyrlError(
            "\n".join(
                [
                    "the ranks of this run would not train the same, so nothing was started:",
                    *lines[:SHOWN],
                    *more,
                    "start all ranks with the same files, options, packages and data",
                ]
            )
        )


def _rows(source: PromptSource | None) -> dict[str, Any] | None:
    if source is None:
        return None
    rows = source.take(0, FIRST_ROWS if source.size is None else min(FIRST_ROWS, source.size))
    order = hashlib.sha256(" ".join(row.uid for row in rows).encode()).hexdigest()
    return {"rows": source.size, "order": order}


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The leaves as JSON, by dotted key."""
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from _flat(part, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, json.dumps(value)


def _differs(key: str, parts: list[dict[str, str]]) -> bool:
    return len({part.get(key) for part in parts}) > 1


def _values(values: list[str | None]) -> str:
    """Each value with the ranks that have it."""
    holders: dict[str | None, list[int]] = {}
    for rank, value in enumerate(values):
        holders.setdefault(value, []).append(rank)
    return "; ".join(f"{value or 'absent'} on {_ranks(who)}" for value, who in holders.items())


def _ranks(numbers: list[int]) -> str:
    if len(numbers) == 1:
        return f"rank {numbers[0]}"
    rest = f" and {len(numbers) - 8} more" if len(numbers) > 8 else ""
    return "ranks " + ", ".join(map(str, numbers[:8])) + rest
