"""Samples with vLLM in the trainer's process, on each rank with a separate copy of the weights."""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from skyrl_core.errors import SkyrlError
from skyrl_train.rollout.rollout_engine import (
    EngineSetup,
    HandOver,
    Sample,
    SampleRequest,
    Sampling,
    WeightSource,
    longest_response,
)
from skyrl_train.rollout.stop_strings import StopStrings
from skyrl_train.rollout.vllm.model_weights import load_into_worker
from skyrl_train.rollout.vllm.process_guard import import_vllm, preserved_state, silence
from skyrl_train.rollout.vllm.sampling_params import (
    CPU_BATCHED_TOKENS,
    CPU_CACHE_GIB,
    DTYPES,
    GIB,
    LOGPROBS_MODE,
    log_prob_arguments,
    log_probs_of,
    sample_from_output,
    sampling_arguments,
)
from skyrl_train.rollout.weights import checkpoint_tensors


class VllmEngine:
    """The rollout engine vllm. docs/rollout_engines.md describes how samples depend on their batch."""

    shares_weights = False
    works_elsewhere = False

    def __init__(self, setup: EngineSetup) -> None:
        """Start vLLM, with random weights until the first sync. Collective.

        Raises:
            SkyrlError: vLLM is not installed, or does not start with this model and configuration.
        """
        self._end_tokens = setup.end_tokens
        self._tokenizer = setup.tokenizer
        self._policy_version = 0
        setup.message("starting vLLM on every rank, which may take a minute ...")
        vllm = import_vllm()
        self._sampling_params: Callable[..., Any] = vllm.SamplingParams
        self._final_only = vllm.sampling_params.RequestOutputKind.FINAL_ONLY
        with _vllm_errors("start"), preserved_state(), silence():
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
            SkyrlError: a prompt and its response exceed the model's length, or vLLM fails.
        """
        for request in requests:
            self._check_length(len(request.prompt_ids), sampling.max_new_tokens)
        arguments = [sampling_arguments(request, sampling, self._end_tokens) for request in requests]
        samples: dict[int, Sample] = {}
        stop = StopStrings(sampling.stop, self._tokenizer)

        def take(index: int, output: Any) -> None:
            samples[index] = self._sample(output.outputs[0], stop)
            if hand_over is not None:
                hand_over(index, samples[index])

        self._run([request.prompt_ids for request in requests], arguments, take)
        return [samples[index] for index in range(len(requests))]

    def log_probs(self, sequences: Sequence[Sequence[int]]) -> list[tuple[float, ...]]:
        """Log-probs, in nats at temperature 1, of the tokens of each sequence except its first."""
        for ids in sequences:
            self._check_length(len(ids), 1)
        outputs: dict[int, Any] = {}
        self._run(sequences, [log_prob_arguments()] * len(sequences), outputs.__setitem__)
        return [log_probs_of(ids, outputs[index].prompt_logprobs) for index, ids in enumerate(sequences)]

    def sync_weights(self, weights: WeightSource, policy_version: int) -> None:
        """Load the policy's weights, without files, and clear the caches of the old ones. Collective.

        Raises:
            SkyrlError: a tensor fits no parameter of vLLM's model, or a parameter got none; all ranks raise it.
        """
        self._wake()
        with _vllm_errors("load the weights"), preserved_state():
            self._llm.collective_rpc(load_into_worker, args=(checkpoint_tensors(weights),))
            if not self._llm.reset_prefix_cache():
                raise SkyrlError("vLLM did not clear its prefix cache, which holds values of the old weights")
        self._policy_version = policy_version

    def close(self) -> None:
        """Release the memory. The trainer's process group stays."""
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _run(
        self, prompts: Sequence[Sequence[int]], arguments: Sequence[dict[str, Any]], take: Callable[[int, Any], None]
    ) -> None:
        """Call ``take`` with the index of each prompt and vLLM's output, once it is complete."""
        if not prompts:
            return
        engine = self._llm.llm_engine
        self._wake()
        try:
            with _vllm_errors("generate"), preserved_state():
                for index, ids in enumerate(prompts):
                    params = self._sampling_params(**arguments[index], output_kind=self._final_only)
                    engine.add_request(str(index), {"prompt_token_ids": list(ids)}, params)
            while engine.has_unfinished_requests():
                with _vllm_errors("generate"), preserved_state():
                    outputs = engine.step()
                for output in outputs:
                    if output.finished:
                        take(int(output.request_id), output)
        except BaseException:
            # Otherwise the remaining outputs would appear in the next call.
            engine.abort_request([str(index) for index in range(len(prompts))])
            raise
        self._sleep()

    def _sample(self, output: Any, stop: StopStrings) -> Sample:
        positions = log_probs_of(output.token_ids, output.logprobs)
        return sample_from_output(output.token_ids, positions, self._end_tokens, self._policy_version, stop)

    def _check_length(self, prompt: int, response: int) -> None:
        if prompt + response > self._longest:
            raise SkyrlError(
                f"a prompt of {prompt} tokens and a response of up to {response} exceed the {self._longest} tokens "
                "of the model's context: lower rollout.max_new_tokens or rollout.max_prompt_tokens"
            )

    def _sleep(self) -> None:
        """Release GPU memory for the trainer, if configured; the weights move to CPU memory."""
        if self._can_sleep and not self._asleep:
            self._llm.sleep(level=1)
            self._asleep = True

    def _wake(self) -> None:
        if self._asleep:
            self._llm.wake_up()
            self._asleep = False


def _arguments(setup: EngineSetup, vllm: Any) -> dict[str, Any]:
    """The arguments of ``vllm.LLM``."""
    rollout, settings = setup.config.rollout, setup.config.rollout.vllm
    model: dict[str, Any] = {
        "model": setup.model,
        "revision": setup.config.model_options.revision,
        "trust_remote_code": setup.config.model_options.trust_remote_code,
        # Token ids in, token ids out: vLLM needs a tokenizer only to find stop strings.
        "skip_tokenizer_init": not (rollout.stop or setup.config.evaluation.stop),
        "generation_config": "vllm",  # otherwise the model's generation_config.json would change the sampling
        "dtype": DTYPES[setup.config.trainer.deepspeed.precision],
    }
    # The model's context may be shorter than the configuration allows; a prompt that needs more is a separate error.
    known = vllm.EngineArgs(**model).create_model_config()
    if known.using_transformers_backend():
        raise SkyrlError(
            f"vLLM has no implementation of {', '.join(known.architectures)}: it would take that of transformers and "
            "change its classes, which the trainer uses in the same process; set rollout.engine to vllm_server or hf"
        )
    own: int = known.max_model_len
    longest = min(rollout.max_prompt_tokens + longest_response(setup.config), own)
    common: dict[str, Any] = {
        "load_format": "dummy",  # the first sync brings the weights
        "logprobs_mode": LOGPROBS_MODE,
        "max_model_len": longest,
        "max_num_seqs": settings.max_num_seqs,
        "enable_prefix_caching": True,  # a prompt is computed once for all of its samples
        "distributed_executor_backend": "external_launcher",  # use the existing process group
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
        # After each chunk of a prompt with a seed vLLM rewinds the seed's generator. A CPU generator cannot do that:
        # it raises "CPU Generator does not use offset", which kills the engine.
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(CPU_BATCHED_TOKENS, longest, settings.max_num_seqs),
    }


@contextmanager
def _vllm_errors(what: str) -> Iterator[None]:
    """Raises errors of vLLM as SkyrlError."""
    try:
        yield
    except SkyrlError:
        raise
    except Exception as error:
        reason = str(error).strip() or type(error).__name__
        raise SkyrlError(
            f"vLLM could not {what}: {reason}\n"
            "  check the options in rollout.vllm; set VLLM_LOGGING_LEVEL=INFO in the environment to see vLLM's log"
        ) from error
