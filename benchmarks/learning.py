"""Learning curves of the quickstart for several seeds and losses.

Every run is ``skyrl train --config configs/quickstart.yaml`` with a different seed or loss. Accuracy is the share of
correct responses to held-out problems, sampled at temperature 1.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from record import Row, record

ROOT = Path(__file__).parents[1]
LOSSES = ("entropy_reg", "clipped_pg")
MEAN_AT_LEAST, WORST_AT_LEAST = 0.78, 0.75


@dataclass(frozen=True)
class Curve:
    """The accuracy of one run by step, and its duration."""

    loss: str
    seed: int
    accuracy: dict[int, float]
    standard_error: float  # of the last accuracy
    seconds: float

    @property
    def last(self) -> float:
        """Accuracy after training."""
        return self.accuracy[max(self.accuracy)]


def train(loss: str, seed: int, folder: Path, options: list[str]) -> Curve:
    """Run the quickstart and read the curve from its run folder."""
    command = [sys.executable, "-m", "skyrl_core.cli.main", "train", "--config", str(ROOT / "configs/quickstart.yaml")]
    command += ["--loss", loss, f"seed={seed}", f"run_folder={folder}", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{loss}, seed {seed}: exit code {done.returncode}\n{done.stderr[-3000:]}")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    evaluations = {line["step"]: line["accuracy"] for line in lines if line["kind"] == "evaluation"}
    seconds = json.loads((folder / "run.json").read_text())["training_seconds"]
    errors = [line["accuracy/standard_error"] for line in lines if line["kind"] == "evaluation"]
    return Curve(loss, seed, evaluations, errors[-1], seconds)


def report(curves: list[Curve]) -> str:
    """Markdown: one row per run, then mean and minimum of each loss."""
    steps = sorted(curves[0].accuracy)
    lines = [
        "| loss | seed | " + " | ".join(f"step {step}" for step in steps) + " | seconds |",
        "|---|---|" + "---|" * (len(steps) + 1),
    ]
    for curve in curves:
        cells = " | ".join(f"{curve.accuracy[step]:.3f}" for step in steps)
        lines.append(f"| {curve.loss} | {curve.seed} | {cells} | {curve.seconds:.0f} |")
    for loss in dict.fromkeys(curve.loss for curve in curves):
        own = [curve for curve in curves if curve.loss == loss]
        for name, summarise in (("mean", statistics.mean), ("minimum", min)):
            cells = " | ".join(f"{summarise(c.accuracy[step] for c in own):.3f}" for step in steps)
            lines.append(f"| **{loss}** | **{name}** | {cells} | |")
    errors = statistics.mean(curve.standard_error for curve in curves)
    lines += ["", f"The standard error of the last accuracy of one run is {errors:.3f} on average."]
    lines.append("Seconds include the evaluations.")
    return "\n".join(lines)


def rows(curves: list[Curve]) -> list[Row]:
    """One row per loss: accuracy before and after training."""
    found = []
    for loss in dict.fromkeys(curve.loss for curve in curves):
        own = [curve for curve in curves if curve.loss == loss]
        first = statistics.mean(curve.accuracy[min(curve.accuracy)] for curve in own)
        last = statistics.mean(curve.last for curve in own)
        found.append(
            Row(
                measure=f"accuracy of the quickstart, `{loss}`, mean of {len(own)} seeds: before → after",
                result=f"{first:.3f} → {last:.3f}",
                goal=f"≥ {MEAN_AT_LEAST:g}",
            )
        )
    return found


def write(curves: list[Curve]) -> None:
    """Write the results and the summary table."""
    how = (__doc__ or "").split("\n", 2)[2].strip()
    packages = ("torch", "deepspeed", "transformers")
    record("learning", rows(curves), f"# Learning curves\n\n{how}\n\n{report(curves)}", packages=packages)


def main() -> int:
    """Train, print and write; exit code 1 if a loss learns less than its goal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--losses", nargs="+", default=LOSSES)
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--every", type=int, default=10, help="steps between evaluations")
    parser.add_argument("--write", action="store_true", help="write the results and the summary table")
    parser.add_argument("options", nargs="*", help="more options of the run, as key=value")
    arguments = parser.parse_args()
    options = [f"evaluation.every={arguments.every}", *arguments.options]
    curves = []
    with tempfile.TemporaryDirectory() as scratch:
        for loss in arguments.losses:
            for seed in arguments.seeds:
                curves.append(train(loss, seed, Path(scratch, f"{loss}-{seed}"), options))
                print(f"{loss}, seed {seed}: {curves[-1].last:.3f} after {curves[-1].seconds:.0f} s", flush=True)
    print(report(curves))
    if arguments.write:
        write(curves)
    failed = False
    for loss in arguments.losses:
        last = [curve.last for curve in curves if curve.loss == loss]
        failed |= statistics.mean(last) < MEAN_AT_LEAST or min(last) < WORST_AT_LEAST
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
