"""Finds options that conflict, and combinations that are allowed but probably not intended."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skyrl_train.config.data_files import files_of, is_data_file
from skyrl_train.config.data_schema import evaluation_key
from skyrl_train.config.lookups import server_address_fault
from skyrl_train.config.number import describe_number, highest
from skyrl_train.config.schema import RunConfig

ENGINES_IN_PROCESS = ("hf", "vllm")
"""Rollout engines of skyrl-train only; one of another package must raise an error itself when it is built."""

ENGINES_OF_VLLM = ("vllm", "vllm_server")

NO_TRUNCATION = {"top_p": 1.0, "top_k": None, "min_p": 0.0}
"""The values of the options in ``rollout`` with which sampling leaves out no token."""

LONGEST_WAIT = 1500.0
"""Maximum seconds of a timeout; ranks that wait for each other give up after 1800."""


@dataclass(frozen=True, kw_only=True)
class Violation:
    """A conflict between options."""

    keys: tuple[str, ...]  # dotted; the problem is reported at the first
    value: Any  # of the first key
    rule: str


def check_rules(config: RunConfig) -> Iterator[Violation]:
    """Every combination of options that cannot work or must be a mistake."""
    yield from _splits(config)
    yield from _placement(config)
    yield from _model(config)
    yield from _algorithm(config)
    yield from _servers(config)
    yield from _async_rollout(config)
    yield from _truncation(config)
    if len(set(config.tracking.trackers)) < len(config.tracking.trackers):
        trackers = list(config.tracking.trackers)
        yield Violation(keys=("tracking.trackers",), value=trackers, rule="names a tracker twice")


def _splits(config: RunConfig) -> Iterator[Violation]:
    trainer, evaluation = config.trainer, config.evaluation
    if trainer.prompts_per_step % trainer.minibatches:
        yield Violation(
            keys=("trainer.minibatches", "trainer.prompts_per_step"),
            value=trainer.minibatches,
            rule=f"must divide trainer.prompts_per_step ({trainer.prompts_per_step}): "
            "the samples of a prompt stay in one minibatch",
        )
    if evaluation.samples_per_prompt > 1 and evaluation.temperature == 0:
        yield Violation(
            keys=("evaluation.samples_per_prompt", "evaluation.temperature"),
            value=evaluation.samples_per_prompt,
            rule="greedy sampling gives the same answer each time: "
            "must be 1, or evaluation.temperature must be above 0",
        )


def _placement(config: RunConfig) -> Iterator[Violation]:
    deepspeed = config.trainer.deepspeed
    if deepspeed.offload_optimizer and deepspeed.zero_stage == 0:
        yield Violation(
            keys=("trainer.deepspeed.offload_optimizer", "trainer.deepspeed.zero_stage"),
            value=True,
            rule="stage 0 cannot offload: set trainer.deepspeed.zero_stage to 1, 2 or 3",
        )


def _model(config: RunConfig) -> Iterator[Violation]:
    options, precision, optimizer = config.model_options, config.trainer.deepspeed.precision, config.trainer.optimizer
    if options.dtype not in (None, precision):
        yield Violation(
            keys=("model_options.dtype", "trainer.deepspeed.precision"),
            value=options.dtype,
            rule=f"must equal trainer.deepspeed.precision ({precision}), the type of the weights in training: set that "
            f"option to {options.dtype}",
        )
    if options.revision is not None and (config.model == "tiny" or Path(config.model).expanduser().exists()):
        yield Violation(
            keys=("model_options.revision", "model"),
            value=options.revision,
            rule=f"only a hub model has revisions, and {config.model} is on this machine: remove the option",
        )
    if (options.attention or "").startswith("flash") and precision == "fp32":
        yield Violation(
            keys=("model_options.attention", "trainer.deepspeed.precision"),
            value=options.attention,
            rule="FlashAttention computes in 16 bits only: set trainer.deepspeed.precision to bf16, or choose sdpa",
        )
    if optimizer.fused and optimizer.kind != "adamw":
        yield Violation(
            keys=("trainer.optimizer.fused", "trainer.optimizer.kind"),
            value=True,
            rule="adamw_8bit has no other kernel: must be false, or trainer.optimizer.kind must be adamw",
        )


def _algorithm(config: RunConfig) -> Iterator[Violation]:
    algorithm, optimizer = config.trainer.algorithm, config.trainer.optimizer
    if algorithm.kl_estimator == "k1":
        yield Violation(
            keys=("trainer.algorithm.kl_estimator",),
            value="k1",
            rule="k1 is useless as a loss: its expected gradient is zero, so it adds noise and no pull towards the "
            "reference model; use k2 (gradient of the reverse KL) or k3 (of the forward), or put k1 into the reward "
            "with trainer.algorithm.kl_reward_coef",
        )
    correction, key = algorithm.off_policy, "trainer.algorithm.off_policy"
    for low, high in (("low", "high"), ("band_low", "band_high")):
        if getattr(correction, low) >= getattr(correction, high):
            yield Violation(
                keys=(f"{key}.{low}", f"{key}.{high}"),
                value=getattr(correction, low),
                rule=f"must be below {high} ({getattr(correction, high):g})",
            )
    if not isinstance(optimizer.learning_rate, float) and (optimizer.schedule != "constant" or optimizer.warmup_steps):
        yield Violation(
            keys=("trainer.optimizer.learning_rate", "trainer.optimizer.schedule", "trainer.optimizer.warmup_steps"),
            value=optimizer.model_dump()["learning_rate"],
            rule="is a schedule, so trainer.optimizer.schedule must be constant and trainer.optimizer.warmup_steps 0; "
            "set them, or give a plain number",
        )
    elif not highest(optimizer.learning_rate):
        value = optimizer.model_dump(mode="json")["learning_rate"]
        yield Violation(keys=("trainer.optimizer.learning_rate",), value=value, rule="must be > 0")
    if highest(optimizer.learning_rate) * optimizer.weight_decay >= 1:
        yield Violation(
            keys=("trainer.optimizer.weight_decay", "trainer.optimizer.learning_rate"),
            value=optimizer.weight_decay,
            rule=f"times the learning rate ({describe_number(optimizer.learning_rate)}) must be < 1: each step "
            "subtracts this share of every weight",
        )


def _servers(config: RunConfig) -> Iterator[Violation]:
    server, urls = config.rollout.server, config.rollout.server.urls
    if config.environment.deadline > LONGEST_WAIT:
        yield Violation(
            keys=("environment.deadline",),
            value=config.environment.deadline,
            rule=f"must be <= {LONGEST_WAIT:g}, because the other ranks wait no longer",
        )
    for name in ("start_timeout", "restart_timeout", "request_timeout"):
        if getattr(server, name) > LONGEST_WAIT:
            yield Violation(
                keys=(f"rollout.server.{name}",),
                value=getattr(server, name),
                rule=f"must be <= {LONGEST_WAIT:g}, because the other ranks wait no longer",
            )
    for url in urls:
        if fault := server_address_fault(url):
            yield Violation(keys=("rollout.server.urls",), value=url, rule=fault)
    if not urls:
        yield Violation(keys=("rollout.server.urls",), value=[], rule="must name at least one server")
    if len({url.rstrip("/") for url in urls}) < len(urls):
        yield Violation(keys=("rollout.server.urls",), value=list(urls), rule="names a server twice")


def _async_rollout(config: RunConfig) -> Iterator[Violation]:
    if config.rollout.async_ == "one_step" and config.rollout.engine in ENGINES_IN_PROCESS:
        yield Violation(
            keys=("rollout.async", "rollout.engine"),
            value="one_step",
            rule=f"the rollout engine {config.rollout.engine} samples in the trainer's process, which cannot train "
            "meanwhile; use rollout.engine: vllm_server",
        )
    if config.rollout.async_ == "one_step" and (config.checkpoint.every == 1 or config.trainer.steps == 1):
        yield Violation(
            keys=("rollout.async", "checkpoint.every", "trainer.steps"),
            value="one_step",
            rule="no step could sample ahead: a checkpoint never contains samples of the next step, and "
            f"checkpoint.every is {config.checkpoint.every} in a run of {config.trainer.steps} steps; raise them, or "
            "set rollout.async to none",
        )


def _truncation(config: RunConfig) -> Iterator[Violation]:
    rollout = config.rollout
    for name, greedy in (("top_k", 1), ("min_p", 1.0)):
        if getattr(rollout, name) == greedy and config.trainer.samples_per_prompt > 1:
            yield Violation(
                keys=(f"rollout.{name}", "trainer.samples_per_prompt"),
                value=greedy,
                rule="leaves only the most probable token, so all samples of a prompt are equal and there is nothing "
                "to learn from",
            )
    if rollout.truncates and rollout.engine in ENGINES_OF_VLLM:
        options = {"top_p": rollout.top_p, "top_k": rollout.top_k, "min_p": rollout.min_p}
        name = next(name for name, neutral in NO_TRUNCATION.items() if options[name] != neutral)
        neutral = "null" if NO_TRUNCATION[name] is None else f"{NO_TRUNCATION[name]:g}"
        yield Violation(
            keys=(f"rollout.{name}", "rollout.engine"),
            value=options[name],
            rule=f"{rollout.engine} does not return which tokens it left out, so its log-probs and the trainer's would "
            f"be of different distributions and every ratio of the two biased: must be {neutral}, or rollout.engine "
            f"must be hf; evaluation.{name} may differ",
        )


def find_oddities(config: RunConfig) -> Iterator[str]:
    """A description of each combination that is allowed but probably not intended."""
    trainer, algorithm, data = config.trainer, config.trainer.algorithm, config.data
    optimizer_steps = trainer.steps * trainer.minibatches * trainer.epochs
    warmup = trainer.optimizer.warmup_steps
    if warmup >= optimizer_steps:
        yield f"the learning rate never reaches its peak: {warmup} warm-up steps, {optimizer_steps} optimizer steps"
    every = config.checkpoint.every
    if config.rollout.async_ == "one_step" and 1 < every < trainer.steps:
        yield f"rollout.async samples ahead in {every - 1} of {every} steps, because a checkpoint has no samples"
    if trainer.share_prompts and config.model_options.attention not in (None, "sdpa"):
        yield (
            "trainer.share_prompts has no effect, because only sdpa shares prompts: "
            f"model_options.attention = {config.model_options.attention}"
        )
    if algorithm.max_length is not None and algorithm.loss_reduction not in (None, "sequence_sum_norm"):
        yield f"trainer.algorithm.max_length has no effect on {algorithm.loss_reduction}"
    same_split = data.train_split == data.evaluation_split
    trained = {file for name in data.train_sources if is_data_file(name) or same_split for file in files_of(name)}
    for name, sources in data.evaluation_sets.items():
        shared = sorted(trained & {file for source in sources for file in files_of(source)})
        if shared:
            yield f"evaluation is not held out: data.train and {evaluation_key(name)} are the same rows ({shared[0]})"
