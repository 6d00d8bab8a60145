"""The trainer engine: DeepSpeed ZeRO through accelerate. Shards, trains, saves and loads the policy.

Gradients are summed over micro-batches and averaged over ranks, nothing else. DeepSpeed is configured with one
accumulation step, so it does not divide by their number, and the trainer marks the last micro-batch.
"""

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from skyrl_core.errors import SkyrlError
from skyrl_train.config.extras import install_extra
from skyrl_train.config.schema import DeepSpeedConfig, OptimizerConfig
from skyrl_train.machine.gc_pause import many_imports
from skyrl_train.policy.adapters import merged_tensors
from skyrl_train.policy.policy import Policy, Sequences, unpack
from skyrl_train.ranks.ranks import Ranks
from skyrl_train.trainer_engine.deepspeed_options import check_extra
from skyrl_train.trainer_engine.plain_data import plain_data_only
from skyrl_train.trainer_engine.snapshot import Snapshot

MICRO_BATCH_SIZE_UNUSED = 1
"""DeepSpeed requires a micro-batch size, but uses it only for throughput logs."""

MUON = "deepspeed.runtime.zero.muon.muon_optimizer"
"""DeepSpeed imports it, and with it torch's compiler, when ZeRO starts; not every version has it."""


class ZeroEngine:
    """The policy in training: forward, backward and step on any ZeRO stage and number of ranks."""

    def __init__(
        self,
        policy: Policy,
        deepspeed: DeepSpeedConfig,
        settings: OptimizerConfig,
        ranks: Ranks,
        *,
        loads_converted: bool = False,
    ) -> None:
        """``loads_converted``: ``load`` reads a checkpoint that was converted for another number of ranks."""
        import_deepspeed(ranks, deepspeed.zero_stage)
        from accelerate import Accelerator, DeepSpeedPlugin
        from accelerate.utils import DistributedType
        from transformers.integrations.deepspeed import unset_hf_deepspeed_config

        from skyrl_train.trainer_engine.state_capture import StateCapture

        self.policy = policy
        self.updates = 0
        """Optimizer steps begun by this process, even those that failed."""
        self.stage = deepspeed.zero_stage
        self._settings = {"betas": settings.betas, "weight_decay": settings.weight_decay}
        self._ranks = ranks
        optimizer = _adamw(policy, settings)
        plugin = DeepSpeedPlugin(hf_ds_config=_deepspeed_config(deepspeed, settings, loads_converted))
        # Otherwise a launcher's --mixed_precision fp16 would override the configured precision.
        accelerator = Accelerator(deepspeed_plugin=plugin, mixed_precision="no")
        if accelerator.distributed_type != DistributedType.DEEPSPEED:
            raise RuntimeError(f"accelerate chose {accelerator.distributed_type} instead of DeepSpeed")
        # `_engine` is DeepSpeed's engine, which wraps the policy.
        try:
            self._engine, self._optimizer = accelerator.prepare(policy, optimizer)
        except BaseException:
            _forget_accelerator()
            raise
        finally:
            # On stage 3 accelerate makes transformers shard every model that is loaded later, even those that must be
            # complete: the copy of the hf engine and the next run's policy.
            unset_hf_deepspeed_config()
        if self.stage == 0:
            optimizer.state.clear()  # in bf16 DeepSpeed makes a step without gradients to create the state
        self._capture = self._engine.checkpoint_engine = StateCapture()
        self._accelerator = accelerator
        if self.stage == 3:
            self._declare_head()

    @property
    def device(self) -> torch.device:
        return self._ranks.device

    @property
    def model(self) -> PreTrainedModel:
        """The trained module; on stage 3 it holds shards."""
        return self.policy.model

    def _declare_head(self) -> None:
        # The policy's forward reads the output embedding outside the module that owns it.
        import deepspeed

        for parameter in self.policy.head.parameters():  # three with an adapter
            deepspeed.zero.register_external_parameter(self.policy, parameter)

    def forward(self, sequences: Sequences, *, with_entropy: bool) -> tuple[Tensor, Tensor | None]:
        """Log-probs [B, T] and, if requested, entropy [B, T]. All ranks must call it equally often."""
        return unpack(self._engine(sequences, with_entropy))

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradient of a micro-batch; ``last`` marks the last one of the step."""
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss)

    def step(self, learning_rate: float) -> float:
        """Clip the gradient, update the weights, clear the gradients. Returns the norm before clipping."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        self.updates += 1
        norm = self._plain_norm() if self.stage == 0 else None
        self._engine.step()
        if norm is None:
            norm = float(self._engine.get_global_grad_norm())
        return norm if norm >= 0 else math.nan  # DeepSpeed reports -1 for a norm that is not finite

    def _plain_norm(self) -> float:
        # On stage 0 DeepSpeed stores no norm, but every rank holds the averaged gradients.
        grads = [p.grad for p in self.policy.parameters() if p.grad is not None]
        return float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g.float()) for g in grads])))

    def weight_norm(self) -> float:
        """The norm of all trained weights; not finite if one of the weights is not. Collective.

        Each rank reads only its share: its shards on stage 3, every n-th weight of its copy on the other stages.
        """
        trained = [parameter for parameter in self.policy.parameters() if parameter.requires_grad]
        rank, count = self._ranks.rank, self._ranks.world_size
        own = [_shard(parameter, rank) for parameter in trained] if self.stage == 3 else trained[rank::count]
        norms = [torch.linalg.vector_norm(part.detach(), dtype=torch.float32).to(self.device) for part in own]
        squared = torch.stack(norms).double().square().sum() if norms else torch.zeros((), dtype=torch.float64)
        return math.sqrt(float(self._ranks.sum(squared)))

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Each complete parameter, adapters merged, by its transformers name. All ranks iterate to the end."""
        yield from merged_tensors(self.policy.model, _gathered if self.stage == 3 else nullcontext)

    def snapshot(self, folder: Path) -> Snapshot:
        """A copy of this rank's shard of the state, without frozen weights. Collective.

        Args:
            folder: existing folder, below which the snapshot will be written.

        Raises:
            OSError: DeepSpeed could not write its scripts there, the only files that it writes itself.
        """
        # DeepSpeed drops a frozen parameter only under its first name; a tied embedding has two.
        policy: Any = self.policy  # torch leaves the hook untyped
        hook = policy.register_state_dict_post_hook(_drop_frozen)
        try:
            self._engine.save_checkpoint(str(folder), tag="state", save_latest=False, exclude_frozen_parameters=True)
        finally:
            hook.remove()
        return self._capture.take()

    def load(self, folder: Path) -> None:
        """Load the state of a checkpoint. Collective.

        Raises:
            SkyrlError: the state belongs to another model or optimizer.
        """
        complete = all(parameter.requires_grad for parameter in self.policy.parameters())
        try:
            with plain_data_only(folder):
                loaded, _ = self._engine.load_checkpoint(str(folder), tag="state", load_module_strict=complete)
        except SkyrlError:
            raise
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise SkyrlError(
                f"the state in {folder} does not fit this run: {reason}\n  resume with the model, optimizer and "
                "precision of the run that wrote it"
            ) from error
        if loaded is None:
            raise RuntimeError(f"DeepSpeed found no engine state in {folder}")
        for group in self._engine.optimizer.param_groups:  # the checkpoint's settings were loaded with its state
            group.update(self._settings)

    def close(self) -> None:
        """Release DeepSpeed's buffers and hooks, so that another engine can be built in this process."""
        self._engine.destroy()
        _forget_accelerator()


def _drop_frozen(module: torch.nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if not parameter.requires_grad:
            state.pop(prefix + name, None)


def _shard(parameter: Any, rank: int) -> Tensor:
    """This rank's part of a parameter on stage 3, without the padding of the last part."""
    shard: Tensor = parameter.ds_tensor.data
    size = max(min(parameter.ds_numel - rank * shard.numel(), shard.numel()), 0)
    return shard.flatten()[:size]


@contextmanager
def _gathered(parameters: list[Any]) -> Iterator[None]:
    """Makes parameters that stage 3 shards complete on every rank. Collective."""
    from deepspeed.runtime.zero.partition_parameters import GatheredParameters, ZeroParamStatus

    sharded = [parameter for parameter in parameters if parameter.ds_status == ZeroParamStatus.NOT_AVAILABLE]
    if sharded:
        # One collective for all parameters; the context below would make one for each.
        sharded[0].all_gather_coalesced(sharded).wait()
    with GatheredParameters(parameters):
        yield


def _forget_accelerator() -> None:
    from accelerate.state import AcceleratorState

    # accelerate keeps its first configuration for the life of the process and has no public way to reset it.
    AcceleratorState._reset_state(reset_partial_state=True)


def _adamw(policy: Policy, config: OptimizerConfig) -> torch.optim.Optimizer:
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    settings: dict[str, Any] = {
        "lr": 0.0,  # each step sets it; a step that DeepSpeed makes at initialisation must not move weights
        "betas": config.betas,
        "weight_decay": config.weight_decay,
    }
    if config.kind == "adamw":
        return torch.optim.AdamW(trained, fused=config.fused or None, **settings)
    try:
        build: Any = import_module("bitsandbytes.optim").AdamW8bit
    except ImportError as error:
        raise SkyrlError(
            f"trainer.optimizer.kind = adamw_8bit needs bitsandbytes ({error}): {install_extra('bitsandbytes')}"
        ) from error
    optimizer: torch.optim.Optimizer = build(trained, **settings)
    return optimizer


def _deepspeed_config(deepspeed: DeepSpeedConfig, optimizer: OptimizerConfig, loads_converted: bool) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": deepspeed.zero_stage, "overlap_comm": False}
    if deepspeed.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}
    check_extra(deepspeed.extra)
    extra = dict(deepspeed.extra)
    zero |= extra.pop("zero_optimization", {})
    return extra | {
        "train_micro_batch_size_per_gpu": MICRO_BATCH_SIZE_UNUSED,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": optimizer.max_grad_norm or 0.0,
        "bf16": {"enabled": deepspeed.precision == "bf16"},
        "zero_optimization": zero,
        "checkpoint": {"load_universal": loads_converted},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # torch's AdamW needs no C++ build on the user's machine
        "steps_per_print": 10**9,
    }


def import_deepspeed(ranks: Ranks, stage: int) -> None:
    """Import DeepSpeed and accelerate, which takes seconds, after fixing the environment that they read."""
    # With this flag accelerate silently trains with plain DDP instead of DeepSpeed.
    os.environ.pop("ACCELERATE_USE_CPU", None)
    # With this list accelerate refuses any DeepSpeed configuration but that of `accelerate config`; ours must apply.
    os.environ.pop("ACCELERATE_CONFIG_DS_FIELDS", None)
    if ranks.device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    with many_imports("deepspeed"):
        import accelerate  # noqa: F401 - imported here, used in the engine
        import deepspeed
        import deepspeed.runtime.engine

        if stage:
            with suppress(ModuleNotFoundError):  # importing it early only saves time
                import_module(MUON)
    from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)
    if ranks.device.type == "cpu":
        # DeepSpeed would compile this optional shared-memory all-reduce for minutes at the first start, with a compiler
        # that the machine may lack. gloo does the same work.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
