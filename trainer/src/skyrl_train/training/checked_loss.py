"""Checks the loss of a run against the quick rules before step 1, and describes the result in its start line."""

from dataclasses import dataclass

from skyrl_core.conformance import check_policy_loss
from skyrl_core.discovery import Claim
from skyrl_core.registry import LOSSES, ScheduledLoss
from skyrl_train.config.resolved import ResolvedRun
from skyrl_train.config.schema import RunConfig
from skyrl_train.ranks.ranks import Ranks


@dataclass(frozen=True, kw_only=True)
class LossCheck:
    """Which rules were checked, and what they noted."""

    summary: str  # the predicate of a sentence whose subject is the loss
    notes: tuple[str, ...] = ()

    def lines(self, run: ResolvedRun, ranks: Ranks, threads: int | str) -> list[str]:
        """The start line of a run, and a line for each note."""
        start = f"{run.loss.identity} {self.summary}; {_place(run.config, ranks, threads)}"
        return [start, *(f"note: {note}" for note in self.notes)]


def check_loss(loss: ScheduledLoss, claim: Claim, spec: str) -> LossCheck:
    """Check each variant of the loss against the quick rules, and that it reads all its parameters.

    ``spec`` is what the user calls the loss.

    Raises:
        ConformanceError: a rule is broken.
        InvalidParamsError: a parameter of a loss without a schema was never read.
    """
    reports = [check_policy_loss(variant) for variant in loss.variants()]
    for report in reports:
        report.raise_for_failures()
    loss.check_reads()
    count = min(len(report.results) - len(report.waived) for report in reports)
    waived = dict.fromkeys(result.rule for report in reports for result in report.waived)
    exceptions = f", waives {', '.join(waived)}" if waived else ""
    return LossCheck(
        summary=f"passes the {count} quick rules{exceptions} (all: {_command(claim, spec)})",
        notes=tuple(dict.fromkeys(note for report in reports for note in report.notes)),
    )


def _command(claim: Claim, spec: str) -> str:
    """How the user checks every rule. The command finds only what is installed."""
    if LOSSES.is_registered(claim):
        return f"`check_policy_loss(load_policy_loss({spec!r}), thorough=True)`"
    return f"`skyrl losses check {spec}`"


def _place(config: RunConfig, ranks: Ranks, threads: int | str) -> str:
    """How and where the run trains, in a few words."""
    place = f"{ranks.world_size} x {ranks.device.type}"
    if ranks.device.type == "cpu":
        place += f" ({threads} thread{'s' if threads != 1 else ''} each)"
    return f"ZeRO-{config.trainer.deepspeed.zero_stage} on {place}"
