"""Parses the answers of a vLLM server's token-in, token-out interface."""

from collections.abc import Collection, Sequence
from typing import Any

from skyrl_train.rollout.rollout_engine import Sample
from skyrl_train.rollout.stop_strings import StopStrings
from skyrl_train.rollout.vllm.sampling_params import sample_from_output
from skyrl_train.rollout.vllm_server.client import ServerLostError

COMPLETE = ("stop", "length")
"""Finish reasons of a complete response."""


def version_of(answer: dict[str, Any]) -> str:
    """The name of the weights that sampled the answer; several names if the weights changed meanwhile."""
    spans = answer["choices"][0]["weight_versions"] or []
    return " then ".join(span["version"] for span in spans)


def sample_of(
    answer: dict[str, Any], end_tokens: Collection[int], policy_version: int, stop: StopStrings | None = None
) -> Sample:
    """The response as a sample.

    Raises:
        ServerLostError: the server aborted the response, as it does when it shuts down.
    """
    choice = answer["choices"][0]
    if choice["finish_reason"] not in COMPLETE:
        raise ServerLostError(f"a rollout server aborted a response ({choice['finish_reason']})")
    log_probs = [token["logprob"] for token in choice["logprobs"]["content"]]
    return sample_from_output(choice["token_ids"], log_probs, end_tokens, policy_version, stop)


def prompt_log_probs(answer: dict[str, Any], token_ids: Sequence[int]) -> tuple[float, ...]:
    """The log-prob, in nats, of each token of the prompt except the first."""
    positions = answer["prompt_logprobs"][1:]
    return tuple(position[str(token)]["logprob"] for token, position in zip(token_ids[1:], positions, strict=True))
