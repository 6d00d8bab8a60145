"""Sampling parameters and outputs of vLLM, for the engines vllm and vllm_server. Imports no vLLM."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from skyrl_core.errors import SkyrlError
from skyrl_train.rollout.rollout_engine import Sample, SampleRequest, Sampling
from skyrl_train.rollout.stop_strings import StopStrings

LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.01, 2.0
"""vLLM silently raises temperatures below the first to it, and refuses temperatures above the second."""

LOGPROBS_MODE = "processed_logprobs"
"""The required mode: vLLM's default reports log-probs before temperature and top-p."""

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
"""vLLM's names for the precisions of a run."""

GIB = 2**30
CPU_CACHE_GIB = 1.0
"""Default size of the KV cache on a CPU, where vLLM's default is a share of all memory."""

CPU_BATCHED_TOKENS = 4096
"""Most prompt tokens in one forward pass, unless a single prompt is longer: it is never split."""


NEUTRAL = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "min_tokens": 0}
"""Settings that would change the distribution: a server may have other defaults, from a model's generation config."""


class LogProb(Protocol):
    """The part of vLLM's class that is used here."""

    logprob: float


def sampling_arguments(request: SampleRequest, sampling: Sampling, end_tokens: Collection[int]) -> dict[str, Any]:
    """Keyword arguments of ``vllm.SamplingParams``, also as JSON, for one sample.

    Args:
        request: prompt and seed.
        sampling: sampling parameters. Greedy decoding reports log-probs at temperature 1, as the hf engine does.
        end_tokens: tokens that end a response, whatever the model's files configure.

    Raises:
        SkyrlError: vLLM does not sample at this temperature.
    """
    _check_temperature(sampling.temperature)
    return {
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": request.seed,
        "stop_token_ids": sorted(end_tokens),
        "ignore_eos": True,  # otherwise vLLM adds the tokens of generation_config.json to ours
        "logprobs": 0,  # only that of the sampled token
        "top_k": sampling.top_k or 0,  # 0: all tokens
        "min_p": sampling.min_p,
        "stop": list(sampling.stop),
        "detokenize": bool(sampling.stop),  # vLLM finds the strings in its text; token ids stay as they were sampled
        **NEUTRAL,
    }


def log_prob_arguments() -> dict[str, Any]:
    """Keyword arguments for a prompt's log-probs at temperature 1; vLLM always samples one token more."""
    return {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0, "detokenize": False}


def sample_from_output(
    token_ids: Sequence[int],
    log_probs: Sequence[float],
    end_tokens: Collection[int],
    policy_version: int,
    stop: StopStrings | None = None,
) -> Sample:
    """A sample from vLLM's output; the token that ended the response, or completed a stop string, is its last token.

    Raises:
        SkyrlError: the numbers of tokens and log-probs differ, or the output has no token.
    """
    if not token_ids or len(token_ids) != len(log_probs):
        raise SkyrlError(
            f"vLLM returned {len(token_ids)} tokens and {len(log_probs)} log-probs; a response needs at least one "
            "token, and a log-prob for each: check that the installed vLLM is a supported version"
        )
    length = stop.length(token_ids) if stop else None  # vLLM may notice a stop string a few tokens later
    return Sample(
        token_ids=tuple(token_ids[:length]),
        log_probs=tuple(log_probs[:length]),
        finished=length is not None or token_ids[-1] in end_tokens,
        policy_version=policy_version,
    )


def log_probs_of(token_ids: Sequence[int], positions: Sequence[Mapping[int, LogProb] | None]) -> tuple[float, ...]:
    """The log-prob of each token from vLLM's output for each position, without positions that have none.

    ``prompt_logprobs`` begin with None, because nothing precedes the first token.
    """
    pairs = zip(token_ids, positions, strict=True)
    return tuple(position[token].logprob for token, position in pairs if position is not None)


def _check_temperature(temperature: float) -> None:
    if temperature != 0 and not LOWEST_TEMPERATURE <= temperature <= HIGHEST_TEMPERATURE:
        raise SkyrlError(
            f"vLLM cannot sample at temperature {temperature:g}, only from {LOWEST_TEMPERATURE} to "
            f"{HIGHEST_TEMPERATURE}, or greedily at 0: change rollout.temperature or evaluation.temperature, or set "
            "rollout.engine: hf"
        )
