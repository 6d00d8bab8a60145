"""Options of the rollout engines that are vLLM: in the trainer's process, and in servers."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from skyrl_train.config.section import Section

Fraction = Annotated[float, Field(gt=0, le=1)]


class VllmConfig(Section):
    """The engine vllm, one on each rank; `skyrl serve` reads kv_cache_gib, max_num_seqs and enforce_eager."""

    kv_cache_gib: PositiveFloat | None = Field(
        default=None,
        description="KV cache of a rank, in GiB; null takes 1 on a CPU, and what the next option leaves on a GPU.",
    )
    gpu_memory_utilization: Fraction = Field(
        default=0.4,
        description="Share of a GPU's memory for weights and KV cache of the engine; the trainer has the rest.",
    )
    max_num_seqs: PositiveInt = Field(default=256, description="Sequences that are decoded together.")
    enforce_eager: bool = Field(default=False, description="On a GPU start faster and decode slower, without graphs.")
    sleep: bool = Field(
        default=False,
        description="On a GPU give the memory to the trainer between rollouts; weights wait in CPU memory.",
    )


class ServerConfig(Section):
    """The engine vllm_server: servers that `skyrl serve` started, or other machines; other engines do not read it."""

    urls: tuple[str, ...] = Field(
        default=("http://127.0.0.1:8000",), description="Where the servers are; each holds the whole model."
    )
    start_timeout: PositiveFloat = Field(
        default=600.0, description="Seconds to wait for the servers at the start of a run."
    )
    restart_timeout: PositiveFloat = Field(
        default=300.0, description="Seconds to wait for a server that was lost; then it gets the weights again."
    )
    request_timeout: PositiveFloat = Field(default=600.0, description="Seconds that one answer of a server may take.")
    max_concurrency: PositiveInt = Field(
        default=256, description="Requests of a rank that are with one server at once."
    )
    weight_transfer: Literal["http", "nccl"] = Field(
        default="http", description="How weights go to servers: in requests, or from GPU to GPU."
    )
