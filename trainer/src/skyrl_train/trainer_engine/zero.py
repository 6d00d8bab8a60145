"""DeepSpeed ZeRO through accelerate: sharding, the backward pass, the optimizer step, the state of both.

Gradients are summed over micro-batches and averaged over ranks, nothing else: DeepSpeed is told of one accumulation
step, so that it divides by nothing, and the trainer says itself which micro-batch is the last.
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

from skyrl_core.errors import SkyrlError
from skyrl_core.parameters import number_at
from skyrl_train.config.schema import DeepSpeedConfig, OptimizerConfig
from skyrl_train.machine.gc_pause import many_imports
from skyrl_train.policy.adapters import merged_tensors
from skyrl_train.policy.policy import Policy, Sequences, unpack
from skyrl_train.ranks.ranks import Ranks
from skyrl_train.trainer_engine.snapshot import Snapshot

MICRO_BATCH_SIZE_UNUSED = 1
"""DeepSpeed wants a micro-batch size and uses it for throughput logs alone."""

MUON = "deepspeed.runtime.zero.muon.muon_optimizer"
"""DeepSpeed imports it when ZeRO starts, and torch's compiler with it; a version without it would start as well."""


class ZeroEngine:
    """The policy in training: forward, backward and step on any ZeRO stage and number of ranks."""

    def __init__(
        self,
        policy: Policy,
        deepspeed: DeepSpeedConfig,
        optimizer: OptimizerConfig,
        ranks: Ranks,
        *,
        loads_converted: bool = False,
    ) -> None:
        """``loads_converted``: what ``load`` reads was converted for another number of ranks."""
        import_deepspeed(ranks, deepspeed.zero_stage)
        from accelerate import Accelerator, DeepSpeedPlugin
        from accelerate.utils import DistributedType
        from transformers.integrations.deepspeed import unset_hf_deepspeed_config

        from skyrl_train.trainer_engine.state_capture import StateCapture

        self.policy = policy
        self.stage = deepspeed.zero_stage
        self._settings = {"betas": optimizer.betas, "weight_decay": optimizer.weight_decay}
        self._ranks = ranks
        plugin = DeepSpeedPlugin(hf_ds_config=_deepspeed_config(deepspeed, optimizer, loads_converted))
        # Otherwise a launcher's --mixed_precision fp16 would train in float16, whatever the configuration says.
        accelerator = Accelerator(deepspeed_plugin=plugin, mixed_precision="no")
        if accelerator.distributed_type != DistributedType.DEEPSPEED:
            raise RuntimeError(f"accelerate chose {accelerator.distributed_type} instead of DeepSpeed")
        # Named apart from the policy's own attribute: accelerate returns the DeepSpeed engine around it.
        try:
            self._engine, self._optimizer = accelerator.prepare(policy, _adamw(policy, optimizer))
        except BaseException:
            _forget_accelerator()
            raise
        finally:
            # accelerate tells transformers to shard, on stage 3, every model that is loaded from now on: also those
            # that must be whole, the sampler's copy and the next run's policy.
            unset_hf_deepspeed_config()
        self._capture = self._engine.checkpoint_engine = StateCapture()
        self._accelerator = accelerator
        if self.stage == 3:
            self._declare_head()

    @property
    def device(self) -> torch.device:
        return self._ranks.device

    def _declare_head(self) -> None:
        # The output embedding is read in the policy's own forward, outside the module that owns it.
        import deepspeed

        for parameter in self.policy.head.parameters():  # with an adapter three
            deepspeed.zero.register_external_parameter(self.policy, parameter)

    def forward(self, sequences: Sequences, *, with_entropy: bool) -> tuple[Tensor, Tensor | None]:
        """Log-probs [B, T] and, if asked for, entropy [B, T]. All ranks call it equally often."""
        return unpack(self._engine(sequences, with_entropy))

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradient of a micro-batch; ``last`` closes the step's accumulation."""
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss)

    def step(self, learning_rate: float) -> float:
        """Clip, update the weights, forget the gradients. Returns the gradient norm before clipping."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        norm = self._plain_norm() if self.stage == 0 else None
        self._engine.step()
        if norm is None:
            norm = float(self._engine.get_global_grad_norm())
        return norm if norm >= 0 else math.nan  # DeepSpeed reports -1 for a norm that is not finite

    def _plain_norm(self) -> float:
        # Without ZeRO DeepSpeed keeps no norm; every rank holds the averaged gradients.
        grads = [p.grad for p in self.policy.parameters() if p.grad is not None]
        return float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g.float()) for g in grads])))

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Each parameter of the model, whole, merged, by its transformers name. All ranks iterate to the end."""
        yield from merged_tensors(self.policy.model, _gathered if self.stage == 3 else nullcontext)

    def snapshot(self, folder: Path) -> Snapshot:
        """A copy of the engine's state, without weights that are not trained. All ranks call it; each has its shard.

        Args:
            folder: is there; the copy knows the names of its files below it.

        Raises:
            OSError: DeepSpeed could not write its scripts there, the only files that it writes itself.
        """
        # DeepSpeed leaves a frozen parameter out under its first name; a tied embedding has two.
        policy: Any = self.policy  # torch leaves the hook untyped
        hook = policy.register_state_dict_post_hook(_leave_out_frozen)
        try:
            self._engine.save_checkpoint(str(folder), tag="state", save_latest=False, exclude_frozen_parameters=True)
        finally:
            hook.remove()
        return self._capture.take()

    def load(self, folder: Path) -> None:
        """Read the engine's state. All ranks call it.

        Raises:
            SkyrlError: it is that of another model or optimizer.
        """
        complete = all(parameter.requires_grad for parameter in self.policy.parameters())
        try:
            loaded, _ = self._engine.load_checkpoint(str(folder), tag="state", load_module_strict=complete)
        except (AssertionError, AttributeError, KeyError, OSError, RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise SkyrlError(
                f"the state in {folder} does not fit this run: {reason}\n  model, optimizer and precision must be "
                "those of the run that wrote it"
            ) from error
        if loaded is None:
            raise RuntimeError(f"DeepSpeed found no engine state in {folder}")
        for group in self._engine.optimizer.param_groups:  # those of the checkpoint came with its state
            group.update(self._settings)

    def close(self) -> None:
        """Release DeepSpeed's buffers and hooks, so that another engine can be built in this process."""
        self._engine.destroy()
        _forget_accelerator()


def _leave_out_frozen(module: torch.nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if not parameter.requires_grad:
            state.pop(prefix + name, None)


@contextmanager
def _gathered(parameters: list[Any]) -> Iterator[None]:
    """The parameters, sharded on stage 3, whole on every rank. Collective."""
    from deepspeed.runtime.zero.partition_parameters import GatheredParameters, ZeroParamStatus

    apart = [parameter for parameter in parameters if parameter.ds_status == ZeroParamStatus.NOT_AVAILABLE]
    if apart:
        # One collective for all of them, where the context below makes one for each.
        apart[0].all_gather_coalesced(apart).wait()
    with GatheredParameters(parameters):
        yield


def _forget_accelerator() -> None:
    from accelerate.state import AcceleratorState

    # accelerate keeps its first configuration for the life of the process; it offers no public way out.
    AcceleratorState._reset_state(reset_partial_state=True)


def _adamw(policy: Policy, config: OptimizerConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        [parameter for parameter in policy.parameters() if parameter.requires_grad],
        lr=number_at(config.learning_rate, 0),
        betas=config.betas,
        weight_decay=config.weight_decay,
    )


def _deepspeed_config(deepspeed: DeepSpeedConfig, optimizer: OptimizerConfig, loads_converted: bool) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": deepspeed.zero_stage, "overlap_comm": False}
    if deepspeed.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": MICRO_BATCH_SIZE_UNUSED,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": optimizer.max_grad_norm or 0.0,
        "bf16": {"enabled": deepspeed.precision == "bf16"},
        "zero_optimization": zero,
        "checkpoint": {"load_universal": loads_converted},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # torch's AdamW: no C++ build on the user's machine
        "steps_per_print": 10**9,
    }


def import_deepspeed(ranks: Ranks, stage: int) -> None:
    """Import DeepSpeed and accelerate, which takes seconds; both read the environment when they are imported."""
    # With this flag accelerate silently trains with plain DDP instead of DeepSpeed.
    os.environ.pop("ACCELERATE_USE_CPU", None)
    # With this list accelerate refuses a DeepSpeed configuration beside the one of `accelerate config`; ours decides.
    os.environ.pop("ACCELERATE_CONFIG_DS_FIELDS", None)
    if ranks.device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    with many_imports("deepspeed"):
        import accelerate  # noqa: F401 - imported here, used in the engine
        import deepspeed
        import deepspeed.runtime.engine

        if stage:
            with suppress(ModuleNotFoundError):  # it is imported ahead only: without it ZeRO starts as well
                import_module(MUON)
    from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)
    if ranks.device.type == "cpu":
        # An optional all-reduce through shared memory, which DeepSpeed would compile for minutes at the first start,
        # with a compiler that the machine may lack. gloo does the same work.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
