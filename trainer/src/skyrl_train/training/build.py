"""Builds a run from a checked configuration and trains it. Only this module names concrete classes."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from skyrl_core.errors import SkyrlError
from skyrl_train.checkpoints import checkpoint_folder, resume
from skyrl_train.checkpoints import rank_conversion as conversion
from skyrl_train.checkpoints.background_export import BackgroundExport
from skyrl_train.checkpoints.background_save import BackgroundSave
from skyrl_train.checkpoints.model_export import DTYPES
from skyrl_train.checkpoints.resume import Resumption
from skyrl_train.config.resolved import ResolvedRun
from skyrl_train.config.schema import RunConfig
from skyrl_train.data.run_data import load_run_data
from skyrl_train.machine.library_output import quiet
from skyrl_train.machine.malloc import keep_freed_memory
from skyrl_train.machine.threads import ThreadGuard, choose_threads
from skyrl_train.policy.adapters import add_adapters
from skyrl_train.policy.model_loading import (
    load_model,
    load_tokenizer,
    recompute_activations,
    tokenizer_files,
)
from skyrl_train.policy.policy import Policy
from skyrl_train.policy.prompts.shared_prompts import can_share_prompts
from skyrl_train.ranks.ranks import Ranks
from skyrl_train.ranks.same_folder import check_same_folder
from skyrl_train.ranks.same_run import check_data, check_run
from skyrl_train.ranks.session import Session, session
from skyrl_train.record.journal import Journal
from skyrl_train.record.progress import Progress
from skyrl_train.record.run_start import open_journal
from skyrl_train.rewards.scorer import Scorer
from skyrl_train.rollout.rollout_engine import RolloutEngine
from skyrl_train.step.advantages import AdvantagePass
from skyrl_train.step.batching import MicroBatchSize
from skyrl_train.step.evaluation_sets import EvaluationSets
from skyrl_train.step.objective import Objective
from skyrl_train.step.prefetch import Prefetcher
from skyrl_train.step.rollout import RolloutCollector
from skyrl_train.step.update import PolicyUpdate
from skyrl_train.step.weight_sync import WeightSync
from skyrl_train.trainer_engine import random_state
from skyrl_train.trainer_engine.deepspeed_options import check_extra
from skyrl_train.trainer_engine.reference_model import BaseModel, Reference
from skyrl_train.trainer_engine.zero import ZeroEngine, import_deepspeed
from skyrl_train.training.build_rollout_engine import build_rollout_engine
from skyrl_train.training.checked_loss import LossCheck, check_loss
from skyrl_train.training.learning_signal import check_signal
from skyrl_train.training.loop import Trainer, TrainerComponents
from skyrl_train.training.release import release


def run_training(run: ResolvedRun, on_start: Callable[[Path], None] = lambda _: None) -> Path:
    """Train to the end. Returns the run folder; ``on_start`` receives it once it exists.

    Raises:
        SkyrlError: the run cannot start or continue; everything that was saved is kept.
        Interrupted: a signal ended the run; the run folder records it, and rank 0 prints how to resume.
        SystemExit: on one of several ranks instead of an error that is already printed.
    """
    quiet()
    rollout = run.config.rollout
    nccl = rollout.engine == "vllm_server" and rollout.server.weight_transfer == "nccl"
    with session(on_start, nccl_to_servers=nccl) as own:
        return _run(run, own)


def _run(run: ResolvedRun, own: Session) -> Path:
    with ExitStack() as stack:
        threads = run.config.trainer.threads
        if own.ranks.device.type == "cpu":
            threads = choose_threads(own.ranks.local_world_size) if threads == "auto" else threads
            torch.set_num_threads(threads)
            keep_freed_memory()
        random_state.seed(run.config.seed)
        with own.reports_failure():
            trainer = _build(run, own, stack, threads=threads)
            trainer.train()
        return trainer.components.journal.folder


def _build(run: ResolvedRun, own: Session, stack: ExitStack, *, threads: int | str) -> Trainer:
    config, ranks = run.config, own.ranks
    objective, checked = _objective(run)
    advantages = _advantages(run, objective, ranks)
    check_run(ranks, run)
    resumed = resume.choose(run, ranks)
    tokenizer = load_tokenizer(config.model, config.model_options)
    data = load_run_data(config, run.environment, tokenizer, ranks)
    check_data(ranks, data.sources())
    progress, resumed = resume.start(run, objective.loss, resumed, data, tokenizer, ranks)
    journal = _start_journal(run, own, stack, progress, resumed)
    for note in (*data.notes, *(f"note: {note}" for note in run.notes)):
        journal.message(note)
    scorer = stack.enter_context(Scorer.of(config.environment, data.environments))
    converts = resumed is not None and resumed.converts
    engine, reference = _policy_and_reference(config, objective, ranks, converts, journal.message)
    stack.callback(release, "the trainer engine", engine.close)
    if resumed is not None:
        _load(resumed, run, engine, ranks, journal)
    rollout_engine = _rollout_engine(run, engine, tokenizer, ranks, journal.message)
    stack.callback(release, "the rollout engine", rollout_engine.close)
    objective = _for_engine(rollout_engine, objective, config)
    shared: dict[str, Any] = {"tokenizer": tokenizer, "engine": rollout_engine, "scorer": scorer, "ranks": ranks}
    export = stack.enter_context(_export(config, engine, ranks, journal))
    saves = stack.enter_context(BackgroundSave(engine, ranks, journal, config.checkpoint.keep, export))
    if resumed is not None:
        _restore_generators(resumed, run, ranks, export)
    pad_id = int(tokenizer.pad_token_id)
    size = _micro_batch_size(config, engine.policy)
    sync = WeightSync.of(config, rollout_engine, engine, data.training_rows, tokenizer, ranks)
    collector = RolloutCollector(config, source=data.training_rows, **shared)
    for line in checked.lines(run, ranks, threads):
        journal.message(line)
    return Trainer(
        TrainerComponents(
            config=config,
            ranks=ranks,
            engine=engine,
            sync=sync,
            objective=objective,
            update=PolicyUpdate(engine, objective, ranks, micro_batch_size=size, pad_id=pad_id),
            collector=collector,
            prefetcher=Prefetcher(collector, sync.weights, journal.message),
            advantages=advantages,
            evaluator=EvaluationSets(config, data.evaluation, **shared) if data.evaluation else None,
            reference=reference,
            journal=journal,
            stop=own.stop,
            pad_id=pad_id,
            micro_batch_size=size,
            threads=ThreadGuard(threads) if config.trainer.threads == "auto" and isinstance(threads, int) else None,
            saves=saves,
        ),
        progress,
    )


def _start_journal(
    run: ResolvedRun, own: Session, stack: ExitStack, progress: Progress, resumed: Resumption | None
) -> Journal:
    # Before the model is loaded, so that a folder in use or a missing API key is reported at once.
    found = resumed.path if resumed is not None else None
    journal = stack.enter_context(open_journal(run, own.ranks, progress, found))
    own.watchdog.record = journal
    own.on_start(journal.folder)
    check_same_folder(journal.folder, own.ranks)
    return journal


def _export(
    config: RunConfig, engine: ZeroEngine, ranks: Ranks, journal: Journal
) -> AbstractContextManager[BackgroundExport | None]:
    if not config.checkpoint.export:
        return nullcontext()
    files = tokenizer_files(config.model, config.model_options)
    return BackgroundExport(engine, files, ranks, model_name=config.model, message=journal.message)


def _objective(run: ResolvedRun) -> tuple[Objective, LossCheck]:
    """The objective, and the result of checking each variant of the loss for conformance."""
    loss = run.loss.scheduled()
    checked = check_loss(loss, run.loss.claim, run.config.trainer.algorithm.policy_loss_type)
    objective = Objective.of(run.config, loss)
    objective.check()
    return objective, checked


def _advantages(run: ResolvedRun, objective: Objective, ranks: Ranks) -> AdvantagePass:
    algorithm = run.config.trainer.algorithm
    estimator, name = run.estimator.build(run.estimator.class_plan.at(0)), algorithm.advantage_estimator
    check_signal(run.config, estimator, objective)
    return AdvantagePass(estimator, name, algorithm.kl_reward_estimator, ranks, run.estimator.guard)


def _load(resumed: Resumption, run: ResolvedRun, engine: ZeroEngine, ranks: Ranks, journal: Journal) -> None:
    """Load the state of model and optimizer. Collective."""
    if ranks.is_main:
        checkpoint_folder.clear(journal.checkpoints)
    for note in resumed.notes(run, ranks.world_size):
        journal.message(note)
    with conversion.converted(resumed.path, ranks) if resumed.converts else nullcontext(resumed.path) as path:
        engine.load(path)
    if ranks.is_main:
        checkpoint_folder.finish(journal.checkpoints, resumed.progress.step, run.config.checkpoint.keep)


def _restore_generators(resumed: Resumption, run: ResolvedRun, ranks: Ranks, export: BackgroundExport | None) -> None:
    """Restore the random states, last of all, because building a run uses random numbers. Collective."""
    if export is not None:
        export.start(resumed.path, resumed.progress)  # in case the run was killed during the export
    same = resumed.progress.world_size == ranks.world_size
    if not (same and random_state.restore(resumed.path, ranks.rank)):
        random_state.seed(run.config.seed + resumed.progress.step)  # not the numbers of the first steps again


def _policy_and_reference(
    config: RunConfig, objective: Objective, ranks: Ranks, loads_converted: bool, message: Callable[[str], None]
) -> tuple[ZeroEngine, Reference | None]:
    trainer, dtype = config.trainer, DTYPES[config.trainer.deepspeed.precision]
    settings: dict[str, Any] = {"chunk_size": trainer.logprob_chunk_size, "temperature": 1.0}  # the trainer sets it
    import_deepspeed(ranks, trainer.deepspeed.zero_stage)  # before the model exists: see many_imports
    check_extra(trainer.deepspeed.extra)
    model = load_model(config.model, dtype, config.model_options)
    add_adapters(model, trainer.lora, seed=config.seed)
    if trainer.deepspeed.gradient_checkpointing:
        recompute_activations(model)
    settings["share_prompts"] = trainer.share_prompts and can_share_prompts(model)
    if trainer.share_prompts and not settings["share_prompts"]:
        kind = model.config.model_type
        message(f"prompts are computed again for each sample: a model of type {kind} cannot share them")
    reference: Reference | None = None
    if objective.needs_reference and trainer.lora.rank is None:
        frozen = load_model(config.model, dtype, config.model_options).requires_grad_(False).to(ranks.device)
        reference = Policy(frozen, **settings)
    trained = Policy(model, **settings)
    engine = ZeroEngine(trained, trainer.deepspeed, trainer.optimizer, ranks, loads_converted=loads_converted)
    if objective.needs_reference and reference is None:
        reference = BaseModel(engine)
    return engine, reference


def _micro_batch_size(config: RunConfig, policy: Policy) -> MicroBatchSize:
    return MicroBatchSize(
        sequences=config.trainer.micro_batch_size,
        tokens=config.trainer.micro_batch_tokens,
        cost=policy.cost if policy.shares_prompts else None,
    )


def _rollout_engine(
    run: ResolvedRun,
    engine: ZeroEngine,
    tokenizer: PreTrainedTokenizerBase,
    ranks: Ranks,
    message: Callable[[str], None],
) -> RolloutEngine:
    config = run.config
    ahead = config.rollout.async_ == "one_step"
    built = build_rollout_engine(
        run,
        engine.policy.model,
        tokenizer,
        ranks,
        complete=engine.stage != 3,  # on stage 3 the module holds only shards
        gather=ranks.gather_in_thread() if ahead else None,
        message=message,
    )
    if ahead and not built.works_elsewhere:
        raise SkyrlError(
            f"rollout.async = one_step: the rollout engine {config.rollout.engine} works in the trainer's process, "
            "which cannot train meanwhile; set rollout.engine to vllm_server, or rollout.async to none"
        )
    return built


def _for_engine(rollout_engine: RolloutEngine, objective: Objective, config: RunConfig) -> Objective:
    if rollout_engine.shares_weights:
        return objective
    return objective.with_separate_engine(optimizer_steps=config.trainer.minibatches * config.trainer.epochs)
