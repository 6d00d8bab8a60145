"""Overlap of slow rewards with decoding: finished samples are rewarded while others are being generated.

The same samples are generated with the tiny model and the engine hf, in batches of rollout.batch_size, and rewarded by
an environment that waits a fixed time and uses no CPU. Rewards take about as long as decoding, so at most half of the
time can be hidden. Medians of several alternating turns.
``python benchmarks/reward_overlap.py``
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from record import Row as Line
from record import record

from skyrl_train.config.load_config import resolve_run
from skyrl_train.data.prompt_source import generated_source
from skyrl_train.data.prompt_tokens import PromptEncoder
from skyrl_train.environments.environment import Row
from skyrl_train.environments.load_environment import load_environment
from skyrl_train.policy.model_loading import load_model, load_tokenizer
from skyrl_train.ranks.ranks import ALONE, Ranks
from skyrl_train.rewards.scorer import Scorer
from skyrl_train.rollout.rollout_engine import RolloutEngine, Sample, SampleRequest, Sampling
from skyrl_train.step.sampling import Sampler
from skyrl_train.training.build_rollout_engine import build_rollout_engine

PROMPTS, SAMPLES, BATCH_SIZE, TOKENS = 32, 8, 64, 64
WORKERS, TURNS = 4, 3
GOAL = 0.7
"""Largest share of the time without overlap that a run with overlap may take."""


class Late:
    """An engine whose `generate` has no `hand_over`: all samples arrive at the end."""

    shares_weights, works_elsewhere = True, False

    def __init__(self, engine: RolloutEngine) -> None:
        self._engine = engine

    def generate(self, requests: Sequence[SampleRequest], sampling: Sampling) -> list[Sample]:
        """Generate without handing over finished samples."""
        return self._engine.generate(requests, sampling)


def build() -> tuple[RolloutEngine, Any, list[SampleRequest], list[Row]]:
    """The engine, its tokenizer, the requests and their rows."""
    run = resolve_run(load_environment, overrides=[f"rollout.batch_size={BATCH_SIZE}"])
    tokenizer, model = load_tokenizer("tiny"), load_model("tiny", torch.float32)
    encoder = PromptEncoder(tokenizer, max_tokens=1024)
    os.environ.update(ALONE)
    engine = build_rollout_engine(run, model, tokenizer, Ranks(), message=print)
    rows = [
        row for row in generated_source(run.config, "train", run.environment).take(0, PROMPTS) for _ in range(SAMPLES)
    ]
    requests = [SampleRequest(prompt_ids=encoder.encode(row), seed=seed) for seed, row in enumerate(rows)]
    return engine, tokenizer, requests, rows


def measure() -> dict[str, float]:
    """Median seconds of decoding, of decoding followed by rewards, and of both overlapped."""
    sys.path.insert(0, str(Path(__file__).parent / "workers"))
    from slow_reward import SlowReward

    engine, tokenizer, requests, rows = build()
    sampling = Sampling(max_new_tokens=TOKENS)
    seconds: dict[str, list[float]] = {"decoding": [], "sequential": [], "overlapped": []}
    engine.generate(requests, sampling)
    for turn in range(TURNS + 1):
        started = time.perf_counter()
        engine.generate(requests, sampling)
        decoding = time.perf_counter() - started
        seconds["decoding"].append(decoding)
        if turn == 0:  # sets how long a reward takes
            environments = {
                name: SlowReward(decoding * WORKERS / len(requests)) for name in {r.environment for r in rows}
            }
            scorer = Scorer(environments, workers=WORKERS)
        for name, generator in (("sequential", Late(engine)), ("overlapped", engine)):
            sampler = Sampler(engine=generator, tokenizer=tokenizer, scorer=scorer)
            started = time.perf_counter()
            scores = sampler.sample(requests, rows, sampling).scores.scores()
            if turn > 0:  # the workers start in the first turn
                seconds[name].append(time.perf_counter() - started)
            assert [score.reward for score in scores] == [1.0] * len(requests), scores
    scorer.close()
    return {name: statistics.median(values) for name, values in seconds.items()}


def report(seconds: dict[str, float]) -> str:
    """The results as Markdown."""
    late, early = seconds["sequential"], seconds["overlapped"]
    rewards = late - seconds["decoding"]
    lines = ["| | share of sequential |", "|---|---|"]
    lines += [f"| {name} | {value / late:.2f} |" for name, value in seconds.items()]
    hidden = (late - early) / rewards
    lines += ["", f"Rewards took {rewards / late:.2f} of the time; {hidden:.0%} of that overlaps with decoding."]
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write results/reward_overlap.md and .json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    seconds = measure()
    ratio, text = seconds["overlapped"] / seconds["sequential"], report(seconds)
    print(text)
    if arguments.write:
        how = (__doc__ or "").strip().split("\n", 2)[2].strip().rsplit("``", 2)[0].strip()
        line = Line(
            measure="samples with slow rewards, overlapped with decoding / sequential",
            result=f"{ratio:.2f}",
            goal=f"{GOAL:g}",
            limit=f"{seconds['decoding'] / seconds['sequential']:.2f}",
        )
        record("reward_overlap", [line], f"# Rewards overlapped with decoding\n\n{how}\n\n{text}")
    if ratio > GOAL:
        sys.exit(1)


if __name__ == "__main__":
    main()
