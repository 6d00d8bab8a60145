"""What a rollout engine is: token ids in, token ids and their log-probabilities out. Imports no torch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any, Protocol

from skyrl_train.config.schema import RunConfig

if TYPE_CHECKING:
    from torch import Tensor, device
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are drawn. Log-probabilities are those of the distribution that is sampled, temperature included."""

    max_new_tokens: int
    temperature: float = 1.0  # 0 means greedy
    top_p: float = 1.0


@dataclass(frozen=True, kw_only=True)
class SampleRequest:
    """One sample to draw for one prompt. Equal seeds and weights give equal samples."""

    prompt_ids: tuple[int, ...]
    seed: int


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One sampled response. The end-of-sequence token, where drawn, is its last token."""

    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]  # nats, one for each token
    finished: bool  # ended by the end-of-sequence token, not by the token limit
    policy_version: int  # how many optimizer steps the weights that drew it had seen


HandOver = Callable[[int, Sample], None]
"""Takes a sample and the place of its request, from any thread; what it has already it ignores."""


class WeightSource(Protocol):
    """The trained weights, whole, under the names that transformers uses; adapters are merged into them."""

    def named_tensors(self) -> Iterator["tuple[str, Tensor]"]:
        """Each parameter once, gathered from its shards where necessary. All ranks iterate together to the end.

        A tensor is whole only until the next one is asked for: who wants to keep it, copies it.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class EngineSetup:
    """What a rollout engine is built from; an entry point of ``skyrl.rollout_engines`` is called with one."""

    config: RunConfig
    model: str  # the folder or hub name that transformers loads
    tokenizer: "PreTrainedTokenizerBase"
    end_tokens: frozenset[int]  # each of them ends a response, and is its last token
    device: "device"
    rank: int
    world_size: int
    message: Callable[[str], None]  # one line for the user; silent on every rank but the first
    gather: Callable[[Any], list[Any]]  # the values of all ranks, on every rank; all ranks call it together
    trained: "PreTrainedModel | None"  # the module that is trained, where it is whole in this process
    load_copy: Callable[[], "PreTrainedModel"]  # for engines that compute with a model of their own in this process


class RolloutEngine(Protocol):
    """Draws samples with the policy's current weights; those that it holds before the first sync are never used."""

    shares_weights: bool  # it computes with the trained module itself, so its weights can never be stale
    works_elsewhere: bool  # it computes in other processes, so it may draw while this one trains

    def generate(self, requests: Sequence[SampleRequest], sampling: Sampling) -> list[Sample]:
        """One sample for each request of this rank, in order.

        With a third parameter, ``hand_over: HandOver | None = None``, an engine may hand over each sample as soon as it
        is finished: it is rewarded while others are drawn. It returns all of them in any case.
        """
        ...

    def log_probs(self, sequences: Sequence[Sequence[int]]) -> list[tuple[float, ...]]:
        """Log-probabilities of the tokens of each sequence but its first, in nats, at temperature 1.

        An engine with several copies of the weights answers once for each of them, one copy after the other.
        """
        ...

    def sync_weights(self, weights: WeightSource, policy_version: int) -> None:
        """Take over the policy's weights, all of them. All ranks call it together."""
        ...

    def close(self) -> None:
        """Release what the engine holds."""
        ...


def generate(
    engine: RolloutEngine, requests: Sequence[SampleRequest], sampling: Sampling, hand_over: HandOver
) -> list[Sample]:
    """One sample for each request, in order; each was handed over once the engine let go of it, or at the end."""
    draw: Any = engine.generate
    early = "hand_over" in signature(draw).parameters
    samples: list[Sample] = draw(requests, sampling, hand_over) if early else draw(requests, sampling)
    for index, sample in enumerate(samples):
        hand_over(index, sample)
    return samples
