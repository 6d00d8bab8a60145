"""Options of the two vLLM rollout engines: in the trainer's process and in servers."""

from typing import Annotated, Literal

from pydantic import Field

from skyrl_train.config.bounded import Gibibytes, PositiveInt, Seconds
from skyrl_train.config.section import EVERY, Section

Fraction = Annotated[float, Field(gt=0, le=1)]


class VllmConfig(Section):
    """The rollout engine vllm, one per rank. `skyrl serve` uses kv_cache_gib, max_num_seqs, enforce_eager."""

    free_on_resume = EVERY

    kv_cache_gib: Gibibytes | None = Field(
        default=None,
        description="KV cache of a rank, in GiB; null takes 1 on a CPU, and on a GPU what gpu_memory_utilization "
        "leaves.",
    )
    gpu_memory_utilization: Fraction = Field(
        default=0.4,
        description="Share of a GPU's memory for the weights and KV cache of vLLM; the trainer gets the rest.",
    )
    max_num_seqs: PositiveInt = Field(default=256, description="Sequences that are decoded together.")
    enforce_eager: bool = Field(default=False, description="On a GPU, skip CUDA graphs: start faster, decode slower.")
    sleep: bool = Field(
        default=False,
        description="On a GPU, free the memory for the trainer between rollouts; weights move to CPU memory.",
    )


class ServerConfig(Section):
    """The rollout engine vllm_server: servers that `skyrl serve` started, here or on other machines."""

    free_on_resume = EVERY

    urls: tuple[str, ...] = Field(
        default=("http://127.0.0.1:8000",), description="Addresses of the servers; each holds the entire model."
    )
    start_timeout: Seconds = Field(default=600.0, description="Seconds to wait for the servers when a run starts.")
    restart_timeout: Seconds = Field(
        default=300.0, description="Seconds to wait for a lost server to return; it then gets the current weights."
    )
    request_timeout: Seconds = Field(default=600.0, description="Seconds to wait for one response of a server.")
    max_concurrency: PositiveInt = Field(default=256, description="Concurrent requests from one rank to one server.")
    weight_transfer: Literal["http", "nccl"] = Field(
        default="http", description="How weights reach the servers: in HTTP requests, or from GPU to GPU with NCCL."
    )
