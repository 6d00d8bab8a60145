"""Cost of all loss computations, compared with the forward and backward pass of the trained model.

One optimizer step over 128 sequences of 512 response tokens, 65,536 in total, in micro-batches of 32. The cost of the
loss is that of the trainer's code with replayed model outputs: token counts and weights, the loss's statistics of the
minibatch, its values, terms and metrics, a KL term with a scheduled weight, a scheduled parameter if the loss has a
numeric one, the backward pass to log-probs and entropy, and the logged metrics. The model is the bundled tiny one, the
hardest case: a larger model takes longer, the loss does not. Same process, same threads, medians. A loss with
statistics of the minibatch (clip_cov, kl_cov) needs the log-probs of all tokens before the first backward pass; that
extra forward pass of the model is not counted. ``python benchmarks/loss_cost.py``
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from record import Row, record
from torch import Tensor

from skyrl_core.parameters import parse_schedule
from skyrl_core.registry import ResolvedLoss, load_policy_loss, policy_losses
from skyrl_train.policy.model_loading import load_model
from skyrl_train.policy.policy import Policy, Sequences
from skyrl_train.ranks.ranks import ALONE, Ranks
from skyrl_train.rollout.rollout_engine import Sample
from skyrl_train.step.batching import MicroBatchSize
from skyrl_train.step.experience import Experience
from skyrl_train.step.objective import Objective
from skyrl_train.step.update import PolicyUpdate, summarise

SEQUENCES, PROMPT, TOKENS, GROUP, MICRO_BATCH = 128, 32, 512, 8, 32
MODEL_TURNS = 2
GOAL = 0.03
TERMS = {"terms": [{"loss": "dual_clip"}, {"loss": "entropy_reg"}, {"loss": "clip_cov"}]}


class Replay:
    """Stands in for the engine: replays stored log-probs and entropies, and accepts their gradient."""

    def __init__(self, log_probs: Tensor, entropy: Tensor) -> None:
        self._log_probs, self._entropy = log_probs, entropy
        self._row = 0

    def forward(self, sequences: Sequences, *, with_entropy: bool) -> tuple[Tensor, Tensor | None]:
        """The next rows: all have equal length, so micro-batches take them in order."""
        rows = slice(self._row, self._row + len(sequences.input_ids))
        self._row = rows.stop % SEQUENCES
        grad = torch.is_grad_enabled()
        entropy = self._entropy[rows].clone().requires_grad_(grad) if with_entropy else None
        return self._log_probs[rows].clone().requires_grad_(grad), entropy

    def backward(self, loss: Tensor, *, last: bool) -> None:  # noqa: ARG002 - one process has nothing to reduce
        """Backpropagate to log-probs and entropy."""
        loss.backward()

    def step(self, learning_rate: float) -> float:  # noqa: ARG002 - no weights to update
        """Do nothing; the gradient norm is 0."""
        return 0.0


def build_batch(vocabulary: int) -> Experience:
    """Build samples of full length in groups of eight."""
    generator = torch.Generator().manual_seed(0)
    responses = torch.randint(vocabulary, (SEQUENCES, TOKENS), generator=generator).tolist()
    samples = [
        Sample(token_ids=tuple(r), log_probs=(0.0,) * TOKENS, finished=True, policy_version=0) for r in responses
    ]
    groups = [index // GROUP for index in range(SEQUENCES)]
    batch = Experience.build([[1] * PROMPT] * SEQUENCES, samples, groups, pad_id=0, device=torch.device("cpu"))
    advantages = torch.randn(SEQUENCES, 1, generator=generator).expand(batch.mask.shape).clone()
    return replace(batch, advantages=advantages)


def around(batch: Experience, log_probs: Tensor) -> Experience:
    """The batch with log-probs of three other policies, a few percent off."""
    generator = torch.Generator().manual_seed(1)
    names = ("rollout_log_probs", "old_log_probs", "ref_log_probs")
    return replace(batch, **{n: log_probs + 0.05 * torch.randn(log_probs.shape, generator=generator) for n in names})


def model_pass(policy: Policy, batch: Experience, *, with_entropy: bool) -> tuple[Tensor, Tensor]:
    """Log-probs and entropy of the batch, after a backward pass for each micro-batch."""
    found = []
    for rows in torch.arange(SEQUENCES).split(MICRO_BATCH):
        values = policy(batch.select(rows).sequences, with_entropy)
        values.sum().backward()
        found.append(values.detach())
    values = torch.cat(found, 1)
    return values[0], values[-1]


def build_objective(name: str) -> Objective:
    """The loss with a schedule for its first plain number, plus a KL term with a scheduled weight."""
    params: dict[str, Any] = TERMS if name == "sum" else {}
    numbers = [key for key, value in load_policy_loss(name, params).params if type(value) is float and value > 0]
    for key in numbers[:1]:
        value = getattr(load_policy_loss(name, params).params, key)
        params = params | {key: {"schedule": "linear", "start": value, "end": 0.9 * value, "steps": 10_000}}
    loss = ResolvedLoss.find(name, params).scheduled()
    rising = parse_schedule({"schedule": "linear", "start": 0.01, "end": 0.02, "steps": 10_000})
    return Objective(loss=loss, reduction=loss.loss.default_reduction, max_length=TOKENS, kl_coef=rising)


def seconds(work: Callable[[int], object], turns: int) -> float:
    """The median seconds; the first turn warms up."""
    taken = []
    for turn in range(turns + 1):
        started = time.perf_counter()
        work(turn)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


def measure(losses: list[str], turns: int) -> dict[str, float]:
    """The cost of each loss, as a share of the model's forward and backward pass without entropy."""
    policy = Policy(load_model("tiny", torch.float32), chunk_size=1024, temperature=1.0)
    plain = build_batch(policy.config.vocab_size)
    log_probs, entropy = model_pass(policy, plain, with_entropy=True)
    batch = around(plain, log_probs)
    model = seconds(lambda _: model_pass(policy, batch, with_entropy=False), MODEL_TURNS)
    os.environ.update(ALONE)
    ranks, size = Ranks(), MicroBatchSize(sequences=MICRO_BATCH)
    costs = {}
    for name in losses:
        engine: Any = Replay(log_probs, entropy)
        update = PolicyUpdate(engine, build_objective(name), ranks, micro_batch_size=size, pad_id=0)

        def step(number: int, update: PolicyUpdate = update) -> dict[str, float]:
            log = update.step(batch, num_groups=SEQUENCES // GROUP, learning_rate=0.0, step=number)
            return summarise([log], ranks)

        costs[name] = seconds(step, turns) / model
    return costs


def table(costs: dict[str, float]) -> str:
    """The costs as Markdown, most expensive first."""
    lines = ["| loss | share of the model's forward and backward |", "|---|---|"]
    lines += [f"| {name} | {cost:.2%} |" for name, cost in sorted(costs.items(), key=lambda item: -item[1])]
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--losses", nargs="+", default=[claim.name for claim in policy_losses()])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--write", action="store_true", help="write results/loss_cost.md and .json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    costs = measure(arguments.losses, arguments.turns)
    name = max(costs, key=lambda loss: costs[loss])
    text = f"{table(costs)}\n\nThe goal is at most {GOAL:.0%}; {arguments.threads} thread(s)."
    print(text)
    if arguments.write:
        how = (__doc__ or "").strip().split("\n", 2)[2].strip().rsplit(" ``", 1)[0]
        line = Row(
            measure="all loss computations, 65k tokens / forward and backward of the tiny model",
            result=f"{costs[name]:.2%} ({name}, the most expensive of {len(costs)})",
            goal=f"{GOAL:.0%}",
        )
        record("loss_cost", [line], f"# Cost of the losses\n\n{how}\n\n{text}")
    if costs[name] > GOAL:
        sys.exit(1)


if __name__ == "__main__":
    main()
