"""GRPO samples per second over complete steps (rollout, reward, update), compared with TRL's GRPOTrainer on a CPU.

Both train the bundled tiny model with the same folder, prompts, reward function, group size and token limit, at
temperature 1, with AdamW, float32, no KL term, one optimizer step per rollout and two threads, each in one process. TRL
generates all samples of a step in one call, updates on them in one micro-batch, and writes no logs. Our run writes
metrics.jsonl and uses ZeRO stage 0, because one process has nothing to shard. There are two settings: *end token*, in
which the model ends its responses, and *full length*, in which the end token is one that the model never generates. The
two processes alternate every few seconds, one stopped while the other computes, so that other load on the machine
affects both. Interrupted steps and warm-up steps are left out.

*Limit* is the rate of the matrix products of the model's layers without anything else, for these shapes and the same
number of threads: prefill of each prompt once, one product per generated token, forward and backward of the update.
``SKYRL_BENCH_PEERS=FOLDER python benchmarks/grpo_throughput.py``;
create FOLDER/trl with

    pip install --no-deps --target FOLDER/trl -r benchmarks/requirements/trl.txt
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

from alternation import Alternating, alternate
from record import Row, record

from skyrl_train.tiny_model import TINY_MODEL

WORKER = Path(__file__).parent / "workers" / "trl_grpo.py"
INSTALL = "To create one: pip install --no-deps --target FOLDER/trl -r benchmarks/requirements/trl.txt"
GOAL = 3.0
PROMPTS, GROUP, MAX_NEW_TOKENS = 16, 8, 48
OURS = 2
"""Our steps per step of TRL, whose steps take longer."""
TURN = 4.0
"""Seconds of TRL's turn; ours takes half as long."""
LEARNING_RATE = 1e-6
"""So small that the models, and the lengths of their responses, do not change."""
UNUSED_TOKEN = ("@", 33)
"""A token of the tiny model that its corpus does not contain."""


@dataclass(frozen=True)
class Measured:
    """The figures of one run, without its first steps."""

    seconds: float  # median of uninterrupted steps, from the end of one to the end of the next
    length: float  # mean tokens of a response
    reward: float  # mean

    @property
    def samples_per_second(self) -> float:
        """The rate over complete training steps."""
        return PROMPTS * GROUP / self.seconds


def main() -> int:
    """Measure and print; exit code 1 if the goal is missed, 2 if TRL is not installed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl", type=Path, help="folder with TRL; default $SKYRL_BENCH_PEERS/trl")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warm-up", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="record the results")
    arguments = parser.parse_args()
    folder = arguments.trl or Path(os.environ.get("SKYRL_BENCH_PEERS", ""), "trl")
    if not (folder / "trl" / "__init__.py").is_file():
        print(f"no TRL in {folder}: pass its folder with --trl or SKYRL_BENCH_PEERS.\n{INSTALL}", file=sys.stderr)
        return 2
    lines = ["| lengths | trainer | samples/s | tokens/s | step | tokens per response | reward | ratio to TRL |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    rows, met = [], True
    with tempfile.TemporaryDirectory() as scratch:
        for name, model in (("end token", TINY_MODEL), ("full length", endless_model(Path(scratch, "endless")))):
            trl, ours = measure(folder, model, arguments, Path(scratch, name.replace(" ", "_")))
            limit = PROMPTS * GROUP / matrix_products(round(ours.length), arguments.threads)
            for trainer, found in (("TRL 1.16 GRPOTrainer", trl), ("skyrl train", ours)):
                lines.append(_line(name, trainer, found, found.samples_per_second / trl.samples_per_second))
            ratio, allowed = (rate / trl.samples_per_second for rate in (ours.samples_per_second, limit))
            lines.append(f"| {name} | only matrix products | {limit:.0f} | | | | | {allowed:.2f} |")
            met = met and ratio >= GOAL
            rows.append(
                Row(
                    measure=f"GRPO samples/s ({name}) / TRL 1.16 GRPOTrainer",
                    result=f"{ratio:.2f}",
                    goal=f"at least {GOAL:g}",
                    limit=f"{allowed:.1f}",
                )
            )
    text = "\n".join([*lines, "", _conditions(arguments)])
    print(text)
    if arguments.write:
        heading = f"# GRPO throughput\n\n{(__doc__ or '').strip()}"
        record("grpo_throughput", rows, f"{heading}\n\n{text}", packages=("torch", "transformers", "deepspeed"))
    return 0 if met else 1


def _line(lengths: str, trainer: str, found: Measured, ratio: float) -> str:
    rate = found.samples_per_second
    return (
        f"| {lengths} | {trainer} | {rate:.1f} | {rate * found.length:.0f} | {found.seconds:.2f} s "
        f"| {found.length:.1f} | {found.reward:.2f} | {ratio:.2f} |"
    )


def _conditions(arguments: argparse.Namespace) -> str:
    return (
        f"{PROMPTS} prompts of {GROUP} samples, at most {MAX_NEW_TOKENS} tokens each, {arguments.threads} threads; "
        f"medians of the uninterrupted steps among {arguments.steps} of TRL's and {OURS * arguments.steps} of ours, "
        f"without the first {arguments.warm_up} of each."
    )


def endless_model(folder: Path) -> Path:
    """A copy of the tiny model whose end token it never generates."""
    shutil.copytree(TINY_MODEL, folder)
    token, number = UNUSED_TOKEN
    for file, changed in (
        ("config.json", {"eos_token_id": number}),
        ("generation_config.json", {"eos_token_id": number}),
        ("tokenizer_config.json", {"eos_token": token}),
    ):
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    return folder


def measure(folder: Path, model: Path, arguments: argparse.Namespace, run: Path) -> tuple[Measured, Measured]:
    """Run TRL and our trainer on the same model, in turns."""
    threads, path = arguments.threads, os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    worker = [sys.executable, str(WORKER), json.dumps(trl_settings(model, arguments))]
    trl = Alternating(worker, _environment(threads, PYTHONPATH=path), TURN)
    ours = Alternating([sys.executable, *our_command(model, arguments, run)], _environment(threads), TURN / OURS)
    alternate([trl, ours])
    found: dict[str, Any] = json.loads(trl.output.splitlines()[-1])
    found["lengths"] = [mean(step) for step in found["lengths"]]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    names = {"ended": "time", "lengths": "response_length/mean", "rewards": "reward/mean"}
    own = {key: [line[name] for line in lines if line["kind"] == "train"] for key, name in names.items()}
    return _measured(trl, found, arguments.warm_up), _measured(ours, own, arguments.warm_up)


def trl_settings(model: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """The arguments of the TRL worker."""
    return {
        "model": str(model),
        "threads": arguments.threads,
        "steps": arguments.steps,
        "prompts_per_step": PROMPTS,
        "samples_per_prompt": GROUP,
        "max_new_tokens": MAX_NEW_TOKENS,
        "learning_rate": LEARNING_RATE,
        "seed": 0,
    }


def our_command(model: Path, arguments: argparse.Namespace, run: Path) -> list[str]:
    """The command line of `skyrl train`."""
    options = {
        "model": model,
        "run_folder": run,
        "trainer.steps": OURS * arguments.steps,
        "trainer.prompts_per_step": PROMPTS,
        "trainer.samples_per_prompt": GROUP,
        "trainer.micro_batch_size": PROMPTS * GROUP,
        "trainer.threads": arguments.threads,
        "trainer.algorithm.policy_loss_type": "standard",
        "trainer.algorithm.loss_reduction": "token_mean",
        "trainer.deepspeed.zero_stage": 0,  # one process has nothing to shard
        "trainer.optimizer.learning_rate": LEARNING_RATE,
        "rollout.max_new_tokens": MAX_NEW_TOKENS,
        "evaluation.prompts": 0,
        "tracking.keep_rollouts": 0,
    }
    return ["-m", "skyrl_core.cli.main", "train", *(f"{key}={value}" for key, value in options.items())]


def _measured(process: Alternating, found: dict[str, list[float]], warm_up: int) -> Measured:
    steps = zip(found["ended"][warm_up - 1 :], found["ended"][warm_up:], strict=False)
    alone = [ended - started for started, ended in steps if process.alone(started, ended)]
    if not alone:
        sys.exit(f"no step of {' '.join(process.command[:4])} ran without interruption: increase --steps")
    return Measured(median(alone), mean(found["lengths"][warm_up:]), mean(found["rewards"][warm_up:]))


def _environment(threads: int, **variables: str) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", **variables}


def matrix_products(length: int, threads: int) -> float:
    """The seconds of the matrix products of one step: the best of several runs."""
    worker = Path(__file__).parent / "workers" / "matrix_products.py"
    wanted = {"prompts": PROMPTS, "group": GROUP, "length": length, "threads": threads, "model": str(TINY_MODEL)}
    command = [sys.executable, str(worker), json.dumps(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, env=_environment(threads), check=False)
    if done.returncode:
        sys.exit(f"{command[:2]} failed:\n{done.stderr[-4000:]}")
    return float(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    sys.exit(main())
