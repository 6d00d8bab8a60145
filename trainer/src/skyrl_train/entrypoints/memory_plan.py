"""The memory of a rank by component, computed from the model's configuration. Imports no torch.

docs/memory.md explains the arithmetic; tests compare it with the state of DeepSpeed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, prod
from typing import Any, Literal

from skyrl_train.config.schema import RunConfig
from skyrl_train.entrypoints.model_shape import ModelShape, Shapes, UnknownShape, shape_of
from skyrl_train.entrypoints.rank_plan import RankPlan
from skyrl_train.machine.memory_limits import gpu_memory, main_memory
from skyrl_train.rollout.rollout_engine import longest_response

Place = Literal["device", "host"]
Phase = Literal["always", "rollout", "update", "optimizer step"]

FLOAT32 = 4
REDUCE_BUCKET = 500_000_000
"""DeepSpeed's default for zero_optimization.reduce_bucket_size, in gradients."""
ALIGNMENT = 2
"""DeepSpeed pads the flat weights of stages 1 and 2 to this many numbers for each rank."""
BLOCK_8BIT = 256
"""Numbers that share a float32 scale in bitsandbytes' optimizer state."""
SAMPLING_BYTES = 16
"""Of a logit while a token is sampled: log-prob and probability in float32, and a float64 sum."""

KEPT_SHARE, KEPT_MAX_BYTES, KEPT_MIN_BYTES = 1 / 5, 512 * 2**20, 16 * 2**20
TILE = {"host": 2**20, "device": 2**26}
"""As in policy/log_probs/tiled_log_probs.py, which imports torch."""

STEP_COPIES = {
    ("fp32", 0): (4, 0),
    ("fp32", 1): (4, 4),
    ("fp32", 2): (4, 4),
    ("fp32", 3): (4, 8),
    ("bf16", 0): (5, 0),
    ("bf16", 1): (0, 10),
    ("bf16", 2): (0, 10),
    ("bf16", 3): (0, 12),
}
"""Bytes for each trained parameter that the optimizer step copies: on every rank, and divided by the ranks. Measured:
the peak above the state between steps in benchmarks/results/memory.md."""


@dataclass(frozen=True, kw_only=True)
class Component:
    """One use of memory by a rank."""

    name: str
    bytes: int
    place: Place = "device"
    phase: Phase = "always"


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """The memory of one rank, and of this machine."""

    components: tuple[Component, ...] = ()
    parameters: int | None = None  # None: unknown
    trained: int | None = None  # parameters that are trained
    unknown: tuple[str, ...] = ()  # what is not counted
    device: Literal["cpu", "cuda"] = "cpu"
    limit: int | None = None  # bytes of the smallest device that is used, or of main memory; None: unknown
    local_ranks: int = 1  # that share this machine's main memory
    gpus: int = 0

    def state(self, place: Place) -> int:
        """Bytes that a rank holds in every phase."""
        return sum(part.bytes for part in self.components if part.phase == "always" and part.place == place)

    def peak(self, place: Place) -> int:
        """Bytes of a rank in the phase that needs most."""
        phases: dict[str, int] = {}
        for part in self.components:
            if part.phase != "always" and part.place == place:
                phases[part.phase] = phases.get(part.phase, 0) + part.bytes
        return self.state(place) + max(phases.values(), default=0)

    @property
    def verdict(self) -> Literal["fits", "may not fit", "does not fit", "unknown"]:
        """Whether this machine has enough memory for its ranks."""
        if self.parameters is None or self.limit is None:
            return "unknown"
        needed = [(self.limit, self._on_machine(self.state("device"), self.state("host")))]
        needed.append((self.limit, self._on_machine(self.peak("device"), self.peak("host"))))
        if self.device == "cuda":
            memory = main_memory() or self.local_ranks * self.peak("host")
            needed += [(memory, self.local_ranks * size("host")) for size in (self.state, self.peak)]
        if any(size > limit for limit, size in needed[::2]):
            return "does not fit"
        return "may not fit" if any(size > limit for limit, size in needed) else "fits"

    def _on_machine(self, device: int, host: int) -> int:
        """Bytes to compare with ``limit``."""
        return device if self.device == "cuda" else self.local_ranks * (device + host)


def plan_memory(config: RunConfig, ranks: RankPlan) -> MemoryPlan:
    """The memory of the rank with most samples."""
    gpus = gpu_memory()
    used = gpus[: ranks.local_ranks]
    machine: dict[str, Any] = {
        "device": "cuda" if gpus else "cpu",
        "limit": min(used) if used else main_memory(),
        "local_ranks": ranks.local_ranks,
        "gpus": len(gpus),
    }
    try:
        shape = shape_of(config)
    except UnknownShape as reason:
        return MemoryPlan(unknown=(f"everything: {reason}",), **machine)
    budget = _Budget(config, shape, ranks, machine["device"] == "cuda", machine["limit"])
    return MemoryPlan(
        components=tuple(part for part in budget.components() if part.bytes),
        parameters=shape.parameters,
        trained=budget.trained,
        unknown=tuple(budget.unknown()),
        **machine,
    )


class _Budget:
    """Computes the components of one rank."""

    def __init__(self, config: RunConfig, shape: ModelShape, ranks: RankPlan, on_gpu: bool, limit: int | None) -> None:
        self._config, self._shape, self._ranks = config, shape, ranks
        self._on_gpu, self._limit = on_gpu, limit
        self._deepspeed = config.trainer.deepspeed
        self._stage = self._deepspeed.zero_stage
        self._width = FLOAT32 if self._deepspeed.precision == "fp32" else 2
        self._adapters = shape.adapters(config.trainer.lora)
        self._trainable: Shapes = self._adapters or shape.tensors

    @property
    def trained(self) -> int:
        """The number of trained parameters."""
        return sum(map(prod, self._trainable.values()))

    def components(self) -> Iterator[Component]:
        yield from self._model_states()
        yield from self._rollout_engine()
        yield from self._update()

    def unknown(self) -> Iterator[str]:
        """What is not counted."""
        algorithm, lora = self._config.trainer.algorithm, self._config.trainer.lora
        if not (algorithm.kl_coef or algorithm.kl_reward_coef) and lora.rank is None:
            yield "a reference model, if the loss needs one"
        if not self._deepspeed.gradient_checkpointing:
            yield "activations"
        if self._config.rollout.engine not in ("hf", "vllm", "vllm_server"):
            yield f"the rollout engine {self._config.rollout.engine}"
        yield "Python and its libraries"

    def _model_states(self) -> Iterator[Component]:
        complete = self._shape.parameters + sum(map(prod, self._adapters.values()))
        tensors = self._shape.tensors | self._adapters
        sharded = self._stage == 3
        yield Component(name="weights", bytes=self._width * (self._shard(tensors) if sharded else complete))
        offloads = self._deepspeed.offload_optimizer
        share = self._shard(self._trainable) if self._stage else self.trained
        if self._stage < 2:
            yield Component(name="gradients", bytes=self._width * self.trained)
        elif offloads:
            yield Component(name="gradients", bytes=FLOAT32 * share, place="host")
        else:
            yield Component(name="gradients", bytes=self._width * share)
        yield Component(name="optimizer", bytes=self._optimizer(share), place="host" if offloads else "device")
        algorithm = self._config.trainer.algorithm
        if (algorithm.kl_coef or algorithm.kl_reward_coef) and not self._adapters:
            yield Component(name="reference model", bytes=self._width * self._shape.parameters)
        saved = self._width * (self._shard(self._trainable) if sharded else self.trained)
        yield Component(name="checkpoint copy", bytes=saved + self._optimizer(share), place="host")

    def _shard(self, tensors: Shapes) -> int:
        """The largest number of these parameters that a rank has if they are sharded."""
        ranks, count = self._ranks.ranks, sum(map(prod, tensors.values()))
        if self._stage == 3:
            return sum(ceil(prod(shape) / ranks) for shape in tensors.values())
        return ALIGNMENT * ceil(count / (ALIGNMENT * ranks))

    def _optimizer(self, parameters: int) -> int:
        """Bytes of the optimizer's state for this many parameters, float32 weights included."""
        copies = FLOAT32 * parameters if self._stage or self._deepspeed.precision == "bf16" else 0
        if self._config.trainer.optimizer.kind == "adamw_8bit":
            return copies + 2 * (parameters + FLOAT32 * ceil(parameters / BLOCK_8BIT))
        return copies + 2 * FLOAT32 * parameters

    def _rollout_engine(self) -> Iterator[Component]:
        rollout, copy = self._config.rollout, self._width * self._shape.parameters
        if rollout.engine == "hf":
            if self._stage == 3:
                yield Component(name="rollout engine's weights", bytes=copy)
            rows = min(rollout.batch_size, max(*self._ranks.sequences_of_step, self._ranks.evaluated))
            cache = rows * self._longest() * self._shape.layers * self._shape.cached_numbers * self._width
            yield Component(name="KV cache, at most", bytes=cache, phase="rollout")
            logits = rows * self._shape.vocabulary * (self._width + SAMPLING_BYTES)
            yield Component(name="logits of sampling", bytes=logits, phase="rollout")
        elif rollout.engine == "vllm":
            settings = rollout.vllm
            phase: Phase = "rollout" if settings.sleep and self._on_gpu else "always"
            yield Component(name="rollout engine's weights", bytes=copy, phase=phase)
            cache = int((settings.kv_cache_gib or 1.0) * 2**30)
            if self._on_gpu and settings.kv_cache_gib is None and self._limit is not None:
                cache = max(0, int(settings.gpu_memory_utilization * self._limit) - copy)
            yield Component(name="KV cache", bytes=cache, phase=phase)

    def _longest(self) -> int:
        wanted = self._config.rollout.max_prompt_tokens + longest_response(self._config)
        return min(wanted, self._shape.positions or wanted)

    def _update(self) -> Iterator[Component]:
        trainer, shape = self._config.trainer, self._shape
        rows = min(trainer.micro_batch_size, self._ranks.largest)
        tokens = trainer.micro_batch_tokens or rows * self._longest()
        responses = min(tokens, rows * self._config.rollout.max_new_tokens)
        kept = min(KEPT_MAX_BYTES, max(KEPT_MIN_BYTES, int(KEPT_SHARE * responses * shape.vocabulary * self._width)))
        tile = TILE["device" if self._on_gpu else "host"] * FLOAT32
        gradient = 0 if self._adapters else FLOAT32 * shape.vocabulary * shape.hidden
        yield Component(name="logits in tiles, at most", bytes=kept + tile + gradient, phase="update")
        if self._deepspeed.gradient_checkpointing:
            inputs = shape.layers * tokens * shape.hidden * self._width
            yield Component(name="inputs of the blocks, at most", bytes=inputs, phase="update")
        if self._stage:
            bucket = int(self._deepspeed.extra.get("zero_optimization", {}).get("reduce_bucket_size", REDUCE_BUCKET))
            # A GPU allocates the bucket at once, a CPU only what is written.
            used = bucket if self._on_gpu else min(bucket, self.trained)
            phase: Phase = "always" if self._stage == 3 else "update"
            yield Component(name="reduction bucket", bytes=used * self._width, phase=phase)
        every, shared = STEP_COPIES[self._deepspeed.precision, self._stage]
        copies = every * self.trained + shared * self._shard(self._trainable)
        place: Place = "host" if self._deepspeed.offload_optimizer else "device"
        yield Component(name="copies", bytes=copies, place=place, phase="optimizer step")
