"""What the answer of a vLLM server to one prompt means; vLLM calls this interface token in, token out."""

from collections.abc import Collection, Sequence
from typing import Any

from skyrl_train.rollout.rollout_engine import Sample
from skyrl_train.rollout.vllm.sampling_params import drawn_sample
from skyrl_train.rollout.vllm_server.client import ServerLostError

COMPLETE = ("stop", "length")
"""Why a response ended, if it was not cut off."""


def version_of(answer: dict[str, Any]) -> str:
    """The name of the weights that drew every token of the answer; several names where they changed on the way."""
    spans = answer["choices"][0]["weight_versions"] or []
    return " then ".join(span["version"] for span in spans)


def sample_of(answer: dict[str, Any], end_tokens: Collection[int], policy_version: int) -> Sample:
    """The drawn response.

    Raises:
        ServerLostError: the server broke it off, as one does that is told to end.
    """
    choice = answer["choices"][0]
    if choice["finish_reason"] not in COMPLETE:
        raise ServerLostError(f"a rollout server broke off a response ({choice['finish_reason']})")
    log_probs = [token["logprob"] for token in choice["logprobs"]["content"]]
    return drawn_sample(choice["token_ids"], log_probs, end_tokens, policy_version)


def given_log_probs(answer: dict[str, Any], token_ids: Sequence[int]) -> tuple[float, ...]:
    """The log-prob of each token of the prompt but the first, in nats."""
    positions = answer["prompt_logprobs"][1:]
    return tuple(position[str(token)]["logprob"] for token, position in zip(token_ids[1:], positions, strict=True))
