"""The plan of a run that `--dry-run` prints, as text or JSON. Imports neither torch nor the loss."""

import json
import textwrap
from collections.abc import Iterator
from math import ceil
from typing import Any

from skyrl_core.cli import Style, paint, terminal_width
from skyrl_core.discovery import Claim, safe_to_print
from skyrl_core.errors import MOST_LISTED
from skyrl_core.printable_text import message_text
from skyrl_core.redaction import redact_arguments, redacted
from skyrl_train.config.data_schema import DataConfig
from skyrl_train.config.number import describe_number
from skyrl_train.config.resolved import ResolvedRun
from skyrl_train.config.schema import AlgorithmConfig, RolloutConfig, TrainerConfig
from skyrl_train.config.yaml_text import inline_yaml
from skyrl_train.entrypoints.machine_plan import MachinePlan, as_json, memory_rows, rank_rows
from skyrl_train.entrypoints.rank_plan import RankPlan

LABEL_WIDTH = 14
WIDTH = 110
"""Maximum columns of a line; a narrower terminal has fewer."""


def write_plan(run: ResolvedRun, machine: MachinePlan) -> str:
    """The plan as text, with a label and a value on each line."""
    lines = ["The configuration is valid; nothing was trained."]
    if machine.missing:
        lines = ["The configuration is valid, but training would not start on this machine: see `missing` below."]
    for label, value in _rows(run, machine):
        lines += _wrapped(label, value)
    for problem in machine.missing[:MOST_LISTED]:
        lines += ["", *_wrapped("missing", problem)]
    if len(machine.missing) > MOST_LISTED:
        lines += ["", *_wrapped("missing", f"and {len(machine.missing) - MOST_LISTED:,} more")]
    for note in run.notes:
        lines += ["", *_wrapped("note", note)]
    first, *rest = [safe_to_print(line) for line in lines]
    return "\n".join([paint(first, "red" if machine.missing else "green"), *map(_coloured, rest)]) + "\n"


def write_plan_json(run: ResolvedRun, machine: MachinePlan) -> str:
    """The plan for scripts: the complete configuration, the loss, ranks and memory, and what this machine lacks."""
    loss = run.loss.claim
    plan = {
        "config": run.as_dict(),
        "defaults": "quickstart" if run.quickstart else "schema",
        "loss": {
            "name": loss.name,
            "distribution": loss.distribution,
            "version": loss.version,
            "status": loss.status,
            "params": redacted(run.loss.params),
        },
        **as_json(machine),
        "missing": list(machine.missing),
        "data": list(run.data),
        "notes": list(run.notes),
    }
    return json.dumps(plan, indent=2) + "\n"


def _coloured(line: str) -> str:
    label, value = line[:LABEL_WIDTH], line[LABEL_WIDTH:]
    if not label.strip():
        return line
    style: dict[str, Style] = {"missing": "red", "note": "yellow"}
    return f"{paint(label, style.get(label.strip(), 'cyan'))}{value}"


def _wrapped(label: str, value: str) -> list[str]:
    start, rest = label.ljust(LABEL_WIDTH), " " * LABEL_WIDTH
    width = max(3 * LABEL_WIDTH, min(WIDTH, terminal_width() or WIDTH))
    return textwrap.wrap(
        message_text(value), width, initial_indent=start, subsequent_indent=rest, break_on_hyphens=False
    )


def _rows(run: ResolvedRun, machine: MachinePlan) -> Iterator[tuple[str, str]]:
    config = run.config
    sources = redact_arguments([*run.files, *run.overrides])
    yield "from", ", ".join(sources) or "defaults only"
    if run.quickstart:
        yield "defaults", "quickstart settings for the tiny model: neither --config nor a model is given"
    elif run.files:
        yield "defaults", "as listed by `skyrl config`"
    else:
        yield "defaults", "for a real model, as listed by `skyrl config`; the quickstart settings suit only `tiny`"
    if run.resume is not None:
        accepts = ", accepting a changed loss" if run.accept_loss_change else ""
        accepts = ", accepting changes" if run.accept_changes else accepts
        skips = ", from the newest intact checkpoint" if run.skip_damaged else ""
        yield "resumes", f"{run.resume}{skips}{accepts}"
    yield "model", config.model
    yield "environment", config.environment.name + _params(run.as_dict()["environment"]["params"])
    yield from _data(run)
    yield from _algorithm(run)
    yield from _step(run, machine.ranks)
    yield from _optimisation(run)
    yield from _outputs(run)
    yield from memory_rows(machine.memory)


def _data(run: ResolvedRun) -> Iterator[tuple[str, str]]:
    data, rollout, evaluation = run.config.data, run.config.rollout, run.config.evaluation
    order = "shuffled" if data.shuffle else "in order"
    lacking = {problem.key for problem in run.missing}
    unset = "an unset source (see `missing`)"
    generated = "problems that the environment generates"
    train = ", ".join(data.train_sources) or (unset if "data.train" in lacking else generated)
    yield "data", f"{train}, {order}, seed {run.config.seed}"
    for line in run.data:
        yield "", line
    yield (
        "rollout",
        (
            f"{rollout.engine} engine, up to {rollout.max_new_tokens} tokens, "
            f"temperature {describe_number(rollout.temperature)}, top_p {rollout.top_p:g}{_truncation(rollout)}"
            f"{', one step ahead' if rollout.async_ == 'one_step' else ''}"
        ),
    )
    if not evaluation.prompts:
        yield "evaluation", "none"
        return
    held_out = _held_out(data) or (unset if "data.evaluation" in lacking else "generated problems")
    when = f", every {_count(evaluation.every, 'step')}" if evaluation.every else ""
    yield (
        "evaluation",
        (
            f"{_count(evaluation.prompts, 'prompt')} x {_count(evaluation.samples_per_prompt, 'sample')} from "
            f"{held_out}, temperature {evaluation.temperature:g}, before and after{when}"
        ),
    )


def _held_out(data: DataConfig) -> str:
    sets = data.evaluation_sets.items()
    return "; ".join(f"{name}: {', '.join(sources)}" if name else ", ".join(sources) for name, sources in sets)


def _algorithm(run: ResolvedRun) -> Iterator[tuple[str, str]]:
    algorithm = run.config.trainer.algorithm
    untyped = " (untyped: parameters are checked when it is loaded)" if run.loss.claim.status == "untyped" else ""
    yield "loss", _identity(run.loss.claim) + untyped
    yield "", _values(redacted(run.loss.params)) or "no parameters"
    length = algorithm.max_length or run.config.rollout.max_new_tokens
    norm = f", L = {length}" if algorithm.loss_reduction == "sequence_sum_norm" else ""
    yield "reduction", (algorithm.loss_reduction or "the default of the loss") + norm
    yield "advantages", _identity(run.estimator.claim) + _params(run.estimator.params)
    yield "KL", "; ".join(_kl_terms(algorithm)) or "no KL term"
    yield from _corrections(algorithm)


def _kl_terms(algorithm: AlgorithmConfig) -> Iterator[str]:
    if algorithm.kl_coef:
        yield f"{describe_number(algorithm.kl_coef)} x {algorithm.kl_estimator} to the reference model, in the loss"
    if algorithm.kl_reward_coef:
        coef = describe_number(algorithm.kl_reward_coef)
        yield f"{coef} x {algorithm.kl_reward_estimator}, subtracted from the reward"


def _corrections(algorithm: AlgorithmConfig) -> Iterator[tuple[str, str]]:
    if algorithm.entropy_coef:
        yield "entropy", f"a bonus of {describe_number(algorithm.entropy_coef)} for each nat"
    if algorithm.high_entropy_fraction is not None:
        yield "tokens", f"the loss is applied to the {algorithm.high_entropy_fraction:.0%} of highest entropy"
    correction = algorithm.off_policy
    if correction.weight != "none":
        limits = f"{correction.outside} outside {correction.low:g} to {correction.high:g}"
        yield "off-policy", f"importance weight of the {correction.weight}, {limits}"
    if correction.band != "none":
        limits = f"{correction.band_low:g} to {correction.band_high:g}"
        yield "off-policy", f"sequences whose {correction.band} ratio is outside {limits} are dropped"


def _micro_batches(trainer: TrainerConfig, sequences: int) -> str:
    if trainer.micro_batch_tokens is not None:
        limit = _count(trainer.micro_batch_tokens, "token")
        return f"{_count(sequences, 'sequence')} in micro-batches of up to {limit}"
    count = _count(ceil(sequences / trainer.micro_batch_size), "micro-batch")
    return f"{count} of up to {_count(min(trainer.micro_batch_size, sequences), 'sequence')}"


def _step(run: ResolvedRun, ranks: RankPlan) -> Iterator[tuple[str, str]]:
    trainer = run.config.trainer
    sequences = trainer.prompts_per_step * trainer.samples_per_prompt
    updates = trainer.minibatches * trainer.epochs
    yield (
        "one step",
        (
            f"{_count(trainer.prompts_per_step, 'prompt')} x {_count(trainer.samples_per_prompt, 'sample')} "
            f"= {_count(sequences, 'sequence')}"
        ),
    )
    yield (
        "",
        (
            f"{_count(trainer.minibatches, 'minibatch')} x {_count(trainer.epochs, 'epoch')} "
            f"= {_count(updates, 'optimizer step')} of {_count(sequences // trainer.minibatches, 'sequence')}"
        ),
    )
    batches = _micro_batches(trainer, ranks.largest)
    yield "", f"on {_count(ranks.ranks, 'rank')}: {batches} for each optimizer step and rank"
    if ranks.ranks > 1:
        yield from rank_rows(ranks)
    yield (
        "entire run",
        (
            f"{_count(trainer.steps, 'step')}, {_count(trainer.steps * updates, 'optimizer step')}, "
            f"{_count(trainer.steps * sequences, 'sample')}"
        ),
    )
    old = "needs no pass" if updates == 1 else "takes one pass in each step if the loss needs it"
    yield (
        "computed",
        f"the old policy {old}; other inputs of the loss (entropy, reference) are known once it is loaded",
    )


def _optimisation(run: ResolvedRun) -> Iterator[tuple[str, str]]:
    optimizer, deepspeed = run.config.trainer.optimizer, run.config.trainer.deepspeed
    lora = run.config.trainer.lora
    if lora.rank is not None:
        scale = lora.alpha / (lora.rank**0.5 if lora.rank_stabilised else lora.rank)
        targets = inline_yaml(lora.model_dump(mode="json")["target_modules"])
        yield "LoRA", f"adapters of rank {lora.rank}, scale {scale:g}, on {targets}; all other weights are frozen"
    warmup = f" after {_count(optimizer.warmup_steps, 'warm-up step')}" if optimizer.warmup_steps else ""
    clip = "no clipping" if optimizer.max_grad_norm is None else f"gradient norm clipped at {optimizer.max_grad_norm:g}"
    name = "fused AdamW" if optimizer.fused else {"adamw": "AdamW", "adamw_8bit": "AdamW in 8 bits"}[optimizer.kind]
    rate = describe_number(optimizer.learning_rate)
    if isinstance(optimizer.learning_rate, float):
        rate = f"{optimizer.learning_rate!r}, {optimizer.schedule}"
    yield "optimizer", f"{name}, learning rate {rate}{warmup}, {clip}"
    extras = [
        text
        for text, on in (
            ("optimizer state in CPU memory", deepspeed.offload_optimizer),
            ("gradient checkpointing", deepspeed.gradient_checkpointing),
        )
        if on
    ]
    yield "DeepSpeed", ", ".join([f"ZeRO stage {deepspeed.zero_stage}", deepspeed.precision, *extras])


def _outputs(run: ResolvedRun) -> Iterator[tuple[str, str]]:
    config = run.config
    every = f"every {_count(config.checkpoint.every, 'step')} and " if config.checkpoint.every else ""
    stopped = ", or when a signal or an error ends the run" if config.checkpoint.on_stop else ""
    yield "checkpoints", f"{every}after the last step{stopped}; the latest {config.checkpoint.keep} are kept"
    trackers = ", ".join(config.tracking.trackers) or "none"
    wandb = f" (W&B {config.tracking.wandb.mode})" if "wandb" in config.tracking.trackers else ""
    yield "trackers", trackers + wandb
    yield "run folder", config.run_folder or f"runs/{run.loss.claim.name}-<date>-<time>"


def _truncation(rollout: RolloutConfig) -> str:
    top_k = "" if rollout.top_k is None else f", top_k {rollout.top_k}"
    min_p = f", min_p {rollout.min_p:g}" if rollout.min_p else ""
    stop = f", stop at {inline_yaml(list(rollout.stop))}" if rollout.stop else ""
    return top_k + min_p + stop


def _identity(claim: Claim) -> str:
    return f"{claim.name}, from {' '.join(filter(None, (claim.distribution, claim.version)))}"


def _params(params: dict[str, Any]) -> str:
    return f"; {_values(params)}" if params else ""


def _values(params: dict[str, Any]) -> str:
    return ", ".join(f"{name} = {inline_yaml(value)}" for name, value in params.items())


def _count(number: int, noun: str) -> str:
    plural = "es" if noun.endswith("tch") else "s"
    return f"{number:,} {noun}{'' if number == 1 else plural}"
