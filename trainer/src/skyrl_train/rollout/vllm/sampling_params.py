"""What vLLM is asked for and what its answers mean, for the engine in this process and for servers. Imports no vLLM."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from skyrl_core.errors import SkyrlError
from skyrl_train.rollout.rollout_engine import Sample, SampleRequest, Sampling

LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.01, 2.0
"""vLLM raises a lower temperature to the first, silently, and refuses a higher one than the second."""

LOGPROBS_MODE = "processed_logprobs"
"""What an engine must be started with: its default reports log-probs before temperature and top-p."""

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
"""vLLM's names for the precisions of a run."""

GIB = 2**30
CPU_CACHE_GIB = 1.0
"""Of KV cache, where the configuration names none: vLLM's own default is a share of all memory."""

CPU_BATCHED_TOKENS = 4096
"""Prompt tokens that one forward pass reads at most, or one prompt, which is never read in pieces."""


class LogProb(Protocol):
    """The part of vLLM's class that is read."""

    logprob: float


def sampling_arguments(request: SampleRequest, sampling: Sampling, end_tokens: Collection[int]) -> dict[str, Any]:
    """Keyword arguments of ``vllm.SamplingParams``, or the same as JSON, for one sample.

    Args:
        request: what to draw.
        sampling: how. Greedy decoding reports log-probs at temperature 1, as the hf engine does.
        end_tokens: a response ends with the first of them, whatever the model's own files say.

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
        "ignore_eos": True,  # or vLLM adds the tokens of generation_config.json to ours
        "logprobs": 0,  # of the drawn token and of no other
        "detokenize": False,
    }


def scoring_arguments() -> dict[str, Any]:
    """The same for the log-probs of given tokens, at temperature 1; vLLM always draws one token more."""
    return {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0, "detokenize": False}


def drawn_sample(
    token_ids: Sequence[int], log_probs: Sequence[float], end_tokens: Collection[int], policy_version: int
) -> Sample:
    """vLLM's answer as a sample; it keeps the token that ended the response as the last one.

    Raises:
        SkyrlError: there is no log-prob for each token, or no token at all.
    """
    if not token_ids or len(token_ids) != len(log_probs):
        raise SkyrlError(
            f"vLLM answered with {len(token_ids)} tokens and {len(log_probs)} log-probs; one for each token is "
            "needed, and a response has at least one"
        )
    return Sample(
        token_ids=tuple(token_ids),
        log_probs=tuple(log_probs),
        finished=token_ids[-1] in end_tokens,
        policy_version=policy_version,
    )


def log_probs_of(token_ids: Sequence[int], positions: Sequence[Mapping[int, LogProb] | None]) -> tuple[float, ...]:
    """The log-prob of each token, of what vLLM reports about each position; positions that it knows none for are out.

    ``positions`` of ``prompt_logprobs`` begin with None, because nothing comes before the first token.
    """
    pairs = zip(token_ids, positions, strict=True)
    return tuple(position[token].logprob for token, position in pairs if position is not None)


def _check_temperature(temperature: float) -> None:
    if temperature != 0 and not LOWEST_TEMPERATURE <= temperature <= HIGHEST_TEMPERATURE:
        raise SkyrlError(
            f"vLLM samples at temperatures from {LOWEST_TEMPERATURE} to {HIGHEST_TEMPERATURE}, or greedily at 0; "
            f"{temperature:g} was asked for. Change rollout.temperature or evaluation.temperature, or take "
            "rollout.engine: hf"
        )
