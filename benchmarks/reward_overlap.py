"""How much of slow rewards is hidden behind decoding: rewards of finished samples run while others are drawn.

The same samples are drawn with the tiny model and the engine hf, in batches of rollout.batch_size, and rewarded by
an environment that waits for so many milliseconds and uses no CPU. Rewards take about as long as decoding, so that half
of the time is the most that can be hidden. Median of several turns, which alternate.
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

from skyrl_train.config.schema import RolloutConfig, RunConfig
from skyrl_train.data.prompts import encode_prompt
from skyrl_train.data.source import build_source
from skyrl_train.environments.environment import Row
from skyrl_train.environments.scoring import Scorer
from skyrl_train.policy.model_loading import load_model, load_tokenizer
from skyrl_train.rollout.engine import RolloutEngine, Sample, SampleRequest, Sampling
from skyrl_train.training.drawing import Drawing
from skyrl_train.training.engine_building import build_rollout_engine
from skyrl_train.training.ranks import ALONE, Ranks

PROMPTS, SAMPLES, BATCH_SIZE, TOKENS = 32, 8, 64, 64
WORKERS, TURNS = 4, 3
GOAL = 0.7
"""Of the time without overlap, which must be the most with it."""


class Late:
    """An engine without the third parameter: all samples are there at the end."""

    shares_weights, works_elsewhere = True, False

    def __init__(self, engine: RolloutEngine) -> None:
        self._engine = engine

    def generate(self, requests: Sequence[SampleRequest], sampling: Sampling) -> list[Sample]:
        """As the engine does, in silence."""
        return self._engine.generate(requests, sampling)


def build() -> tuple[RolloutEngine, Any, list[SampleRequest], list[Row]]:
    """The engine, its tokenizer, and what is drawn."""
    config = RunConfig(rollout=RolloutConfig(batch_size=BATCH_SIZE))
    tokenizer, model = load_tokenizer("tiny"), load_model("tiny", torch.float32)
    os.environ.update(ALONE)
    engine = build_rollout_engine(config, model, tokenizer, Ranks(), message=print)
    rows = [row for row in build_source(config, "train").take(0, PROMPTS) for _ in range(SAMPLES)]
    requests = [
        SampleRequest(prompt_ids=encode_prompt(row, tokenizer, 1024), seed=seed) for seed, row in enumerate(rows)
    ]
    return engine, tokenizer, requests, rows


def measure() -> dict[str, float]:
    """Median seconds of decoding alone, of decoding and then rewards, and of both together."""
    sys.path.insert(0, str(Path(__file__).parent / "workers"))
    from slow_reward import SlowReward

    engine, tokenizer, requests, rows = build()
    sampling = Sampling(max_new_tokens=TOKENS)
    seconds: dict[str, list[float]] = {"decoding": [], "one after the other": [], "overlapped": []}
    engine.generate(requests, sampling)
    for turn in range(TURNS + 1):
        started = time.perf_counter()
        engine.generate(requests, sampling)
        decoding = time.perf_counter() - started
        seconds["decoding"].append(decoding)
        if turn == 0:  # how long a reward has to be
            environments = {
                name: SlowReward(decoding * WORKERS / len(requests)) for name in {r.environment for r in rows}
            }
            scorer = Scorer(environments, workers=WORKERS)
        for name, drawer in (("one after the other", Late(engine)), ("overlapped", engine)):
            drawing = Drawing(engine=drawer, tokenizer=tokenizer, scorer=scorer)
            started = time.perf_counter()
            scores = drawing.draw(requests, rows, sampling).scores.scores()
            if turn > 0:  # the workers start in the first one
                seconds[name].append(time.perf_counter() - started)
            assert [score.reward for score in scores] == [1.0] * len(requests), scores
    scorer.close()
    return {name: statistics.median(values) for name, values in seconds.items()}


def report(seconds: dict[str, float]) -> str:
    """Markdown."""
    late, early = seconds["one after the other"], seconds["overlapped"]
    rewards = late - seconds["decoding"]
    lines = ["| | of one after the other |", "|---|---|"]
    lines += [f"| {name} | {value / late:.2f} |" for name, value in seconds.items()]
    hidden = (late - early) / rewards
    lines += ["", f"Rewards took {rewards / late:.2f} of the time; {hidden:.0%} of theirs is hidden behind decoding."]
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write results/reward_overlap.md and .json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    seconds = measure()
    ratio, text = seconds["overlapped"] / seconds["one after the other"], report(seconds)
    print(text)
    if arguments.write:
        how = (__doc__ or "").strip().split("\n", 2)[2].strip().rsplit("``", 2)[0].strip()
        line = Line(
            measure="samples with slow rewards, rewarded while others are drawn, against rewarded afterwards",
            result=f"{ratio:.2f} of the time",
            goal=f"{GOAL:g}",
            limit=f"{seconds['decoding'] / seconds['one after the other']:.2f}",
        )
        record("reward_overlap", [line], f"# Rewards while others are drawn\n\n{how}\n\n{text}")
    if ratio > GOAL:
        sys.exit(1)


if __name__ == "__main__":
    main()
