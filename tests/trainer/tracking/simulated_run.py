"""A run without training: logs plausible numbers for as many steps as asked. Used by tests as a program."""

import sys
from pathlib import Path

from skyrl_train.tracking.console import Console
from skyrl_train.tracking.metrics_jsonl import MetricsRecord
from skyrl_train.tracking.tracker import AnswerPair, RunInfo, RunSummary, Trackers

EVIL = "[red]x[/red] \x1b[2J\x1b]0;evil\x07 [/]"


def main(folder: str, steps: str) -> None:
    run, total = Path(folder), int(steps)
    info = RunInfo(
        run_folder=run, title=f"a run {EVIL}", loss="skyrl-core:dual_clip@1", total_steps=total, config={}, world_size=1
    )
    record, trackers = MetricsRecord(), Trackers([Console()])
    record.start(info)
    trackers.start(info)
    before = {"accuracy": 0.469, "accuracy/standard_error": 0.035, "reward/mean": 0.47, "response_length/mean": 12.5}
    record.log_evaluation(0, before, False)
    trackers.log_evaluation(0, before, False)
    trackers.message(f"note {EVIL}")
    for step in range(1, total + 1):
        metrics = {"reward/mean": step / total, "loss/total": -0.0123}
        record.log_step(step, metrics)
        trackers.log_step(step, {**metrics, "tokens_per_second": 2412.0})
    after = {**before, "accuracy": 0.781}
    record.log_evaluation(total, after, True)
    trackers.log_evaluation(total, after, True)
    pair = AnswerPair(
        question="2 + 2?", expected="4", before=EVIL, before_correct=False, after="#### 4", after_correct=True
    )
    trackers.finish(RunSummary(run_folder=run, steps=total, seconds=75.0, before=before, after=after, answers=(pair,)))
    trackers.close()
    record.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
