"""Samples with vLLM in this process: one engine for each rank, beside the trainer and with weights of its own."""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from skyrl_core.errors import SkyrlError
from skyrl_train.rollout.rollout_engine import EngineSetup, HandOver, Sample, SampleRequest, Sampling, WeightSource
from skyrl_train.rollout.vllm.model_weights import take_over
from skyrl_train.rollout.vllm.process_guard import as_it_was, import_vllm, silence
from skyrl_train.rollout.vllm.sampling_params import (
    CPU_BATCHED_TOKENS,
    CPU_CACHE_GIB,
    DTYPES,
    GIB,
    LOGPROBS_MODE,
    drawn_sample,
    log_probs_of,
    sampling_arguments,
    scoring_arguments,
)


class VllmEngine:
    """Equal seeds and weights give equal samples; docs/rollout_engines.md says how far neighbours matter."""

    shares_weights = False
    works_elsewhere = False

    def __init__(self, setup: EngineSetup) -> None:
        """Start the engine, with random weights until the first sync. All ranks call it together.

        Raises:
            SkyrlError: vLLM is not installed, or does not start with this model and configuration.
        """
        self._end_tokens = setup.end_tokens
        self._policy_version = 0
        setup.message("starting vLLM on every rank, which may take a minute ...")
        vllm = import_vllm()
        self._sampling_params: Callable[..., Any] = vllm.SamplingParams
        self._whole = vllm.sampling_params.RequestOutputKind.FINAL_ONLY
        with _named("start"), as_it_was(), silence():
            self._llm = vllm.LLM(**_arguments(setup, vllm))
        self._longest = int(self._llm.llm_engine.model_config.max_model_len)
        self._can_sleep = setup.config.rollout.vllm.sleep and setup.device.type == "cuda"
        self._asleep = False
        self._sleep()

    def generate(
        self, requests: Sequence[SampleRequest], sampling: Sampling, hand_over: HandOver | None = None
    ) -> list[Sample]:
        """One sample for each request, in order.

        Raises:
            SkyrlError: a prompt and its response do not fit into the model, or vLLM fails.
        """
        for request in requests:
            self._check_length(len(request.prompt_ids), sampling.max_new_tokens)
        arguments = [sampling_arguments(request, sampling, self._end_tokens) for request in requests]
        samples: dict[int, Sample] = {}

        def take(index: int, output: Any) -> None:
            samples[index] = self._sample(output.outputs[0])
            if hand_over is not None:
                hand_over(index, samples[index])

        self._run([request.prompt_ids for request in requests], arguments, take)
        return [samples[index] for index in range(len(requests))]

    def log_probs(self, sequences: Sequence[Sequence[int]]) -> list[tuple[float, ...]]:
        """Log-probabilities of the tokens of each sequence but its first, in nats, at temperature 1."""
        for ids in sequences:
            self._check_length(len(ids), 1)
        outputs: dict[int, Any] = {}
        self._run(sequences, [scoring_arguments()] * len(sequences), outputs.__setitem__)
        return [log_probs_of(ids, outputs[index].prompt_logprobs) for index, ids in enumerate(sequences)]

    def sync_weights(self, weights: WeightSource, policy_version: int) -> None:
        """Take over the policy's weights without a copy through disk, and forget what was computed with the old ones.

        Raises:
            SkyrlError: a tensor fits no parameter of vLLM's model, or a parameter got none; all ranks raise it.
        """
        self._wake()
        with _named("take over the weights"), as_it_was():
            self._llm.collective_rpc(take_over, args=(weights.named_tensors(),))
            if not self._llm.reset_prefix_cache():
                raise SkyrlError("vLLM kept its prefix cache, which holds values of the old weights")
        self._policy_version = policy_version

    def close(self) -> None:
        """Give the memory back. The trainer's process group stays."""
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _run(
        self, prompts: Sequence[Sequence[int]], arguments: Sequence[dict[str, Any]], take: Callable[[int, Any], None]
    ) -> None:
        """``take`` gets the place of each prompt and vLLM's answer, once it is complete."""
        if not prompts:
            return
        engine = self._llm.llm_engine
        self._wake()
        try:
            with _named("generate"), as_it_was():
                for index, ids in enumerate(prompts):
                    params = self._sampling_params(**arguments[index], output_kind=self._whole)
                    engine.add_request(str(index), {"prompt_token_ids": list(ids)}, params)
            while engine.has_unfinished_requests():
                with _named("generate"), as_it_was():
                    outputs = engine.step()
                for output in outputs:
                    if output.finished:
                        take(int(output.request_id), output)
        except BaseException:
            # Or the rest of the answers would come among those of the next call.
            engine.abort_request([str(index) for index in range(len(prompts))])
            raise
        self._sleep()

    def _sample(self, output: Any) -> Sample:
        positions = log_probs_of(output.token_ids, output.logprobs)
        return drawn_sample(output.token_ids, positions, self._end_tokens, self._policy_version)

    def _check_length(self, prompt: int, response: int) -> None:
        if prompt + response > self._longest:
            raise SkyrlError(
                f"a prompt of {prompt} tokens and a response of up to {response} exceed the {self._longest} tokens "
                "that the model can hold: lower rollout.max_new_tokens or rollout.max_prompt_tokens"
            )

    def _sleep(self) -> None:
        """Give GPU memory to the trainer, if asked to; the weights wait in CPU memory."""
        if self._can_sleep and not self._asleep:
            self._llm.sleep(level=1)
            self._asleep = True

    def _wake(self) -> None:
        if self._asleep:
            self._llm.wake_up()
            self._asleep = False


def _arguments(setup: EngineSetup, vllm: Any) -> dict[str, Any]:
    """Of ``vllm.LLM``."""
    rollout, settings = setup.config.rollout, setup.config.rollout.vllm
    model: dict[str, Any] = {
        "model": setup.model,
        "skip_tokenizer_init": True,  # token ids in, token ids out
        "generation_config": "vllm",  # or defaults of the model's own file would change how tokens are drawn
        "dtype": DTYPES[setup.config.trainer.deepspeed.precision],
    }
    # The model may hold fewer tokens than the configuration allows; a row that needs more is an error of its own.
    own: int = vllm.EngineArgs(**model).create_model_config().max_model_len
    longest = min(rollout.max_prompt_tokens + rollout.max_new_tokens, own)
    common: dict[str, Any] = {
        "load_format": "dummy",  # nothing but a sync can make the weights right
        "logprobs_mode": LOGPROBS_MODE,
        "max_model_len": longest,
        "max_num_seqs": settings.max_num_seqs,
        "enable_prefix_caching": True,  # the samples of a prompt read it once
        "distributed_executor_backend": "external_launcher",  # work in the process group that is there
        "kv_cache_memory_bytes": int(settings.kv_cache_gib * GIB) if settings.kv_cache_gib else None,
        "seed": 0,
    }
    return model | common | (_on_gpu(setup) if setup.device.type == "cuda" else _on_cpu(setup, longest))


def _on_gpu(setup: EngineSetup) -> dict[str, Any]:
    settings = setup.config.rollout.vllm
    return {
        "gpu_memory_utilization": settings.gpu_memory_utilization,
        "enforce_eager": settings.enforce_eager,
        "enable_sleep_mode": settings.sleep,
    }


def _on_cpu(setup: EngineSetup, longest: int) -> dict[str, Any]:
    settings = setup.config.rollout.vllm
    return {
        "kv_cache_memory_bytes": int((settings.kv_cache_gib or CPU_CACHE_GIB) * GIB),
        "enforce_eager": True,
        # A prompt that is read in pieces draws from its seed's generator after each piece; vLLM then sets the generator
        # back, which a CPU generator cannot do: it raises "CPU Generator does not use offset" and the engine is dead.
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(CPU_BATCHED_TOKENS, longest, settings.max_num_seqs),
    }


@contextmanager
def _named(what: str) -> Iterator[None]:
    """An error of vLLM under its name."""
    try:
        yield
    except SkyrlError:
        raise
    except Exception as error:
        reason = str(error).strip() or type(error).__name__
        raise SkyrlError(
            f"vLLM could not {what}: {reason}\n"
            "  its options are those of rollout.vllm; VLLM_LOGGING_LEVEL=INFO in the environment shows what it does"
        ) from error
