"""The protocol of rollout engines: token ids in, token ids and their log-probs out. Imports no torch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any, Protocol

from skyrl_core.errors import SkyrlError
from skyrl_train.config.schema import RunConfig

if TYPE_CHECKING:
    from torch import Tensor, device
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Sampling parameters. Log-probs are those of the sampled distribution, temperature and truncation included."""

    max_new_tokens: int
    temperature: float = 1.0  # 0 means greedy
    top_p: float = 1.0
    top_k: int | None = None  # None: all tokens
    min_p: float = 0.0
    stop: tuple[str, ...] = ()  # see stop_strings.py
    return_kept: bool = False  # samples must have `kept`

    @classmethod
    def for_training(cls, config: RunConfig, temperature: float) -> "Sampling":
        """The parameters of rollouts, at the temperature of a step."""
        rollout = config.rollout
        return cls(
            max_new_tokens=rollout.max_new_tokens,
            temperature=temperature,
            top_p=rollout.top_p,
            top_k=rollout.top_k,
            min_p=rollout.min_p,
            stop=rollout.stop,
            return_kept=rollout.truncates,
        )

    @classmethod
    def for_evaluation(cls, config: RunConfig) -> "Sampling":
        """The parameters of evaluations: those of ``evaluation``, and of ``rollout`` where they are null."""
        own, rollout = config.evaluation, config.rollout
        return cls(
            max_new_tokens=rollout.max_new_tokens if own.max_new_tokens is None else own.max_new_tokens,
            temperature=own.temperature,
            top_p=rollout.top_p if own.top_p is None else own.top_p,
            top_k=rollout.top_k if own.top_k is None else own.top_k or None,
            min_p=rollout.min_p if own.min_p is None else own.min_p,
            stop=rollout.stop if own.stop is None else own.stop,
        )


def longest_response(config: RunConfig) -> int:
    """Tokens of the longest response that training or evaluation may sample."""
    evaluated = Sampling.for_evaluation(config).max_new_tokens if config.evaluation.prompts else 0
    return max(config.rollout.max_new_tokens, evaluated)


@dataclass(frozen=True, kw_only=True)
class SampleRequest:
    """A request for one sample of one prompt. Equal seeds and weights give equal samples."""

    prompt_ids: tuple[int, ...]
    seed: int


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One sampled response. Its last token is the end-of-sequence token, or the one that completed a stop string."""

    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]  # nats, one for each token
    finished: bool  # ended by one of these tokens, not by the token limit
    policy_version: int  # optimizer steps that the sampling weights had made
    kept: Sequence[Any] | None = None
    """For each token the ids that top-k, top-p and min-p left, as a list or an array. The log-prob is normalised over
    them, and so are those of the trainer. Needed if ``Sampling.return_kept``."""


HandOver = Callable[[int, Sample], None]
"""Takes the index of a request and its sample, from any thread; ignores an index that it already has."""


class WeightSource(Protocol):
    """The trained weights: complete tensors, with adapters merged.

    An engine that loads checkpoints, such as vLLM, takes ``skyrl_train.rollout.weights.checkpoint_tensors(source)``.
    """

    @property
    def model(self) -> "PreTrainedModel":
        """The trained module, for its configuration: its tensors may be shards."""
        ...

    def named_tensors(self) -> Iterator["tuple[str, Tensor]"]:
        """Each parameter once, by the names of transformers' module. All ranks must iterate to the end.

        A tensor is valid only until the next one is requested: copy it to keep it.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class EngineSetup:
    """The arguments of a rollout engine; an entry point of ``skyrl.rollout_engines`` is called with one."""

    config: RunConfig
    model: str  # the folder or hub name that transformers loads
    tokenizer: "PreTrainedTokenizerBase"
    end_tokens: frozenset[int]  # tokens that end a response, as its last token
    device: "device"
    rank: int
    world_size: int
    message: Callable[[str], None]  # prints one line for the user; does nothing on ranks other than 0
    gather: Callable[[Any], list[Any]]  # the values of all ranks, on every rank; collective
    trained: "PreTrainedModel | None"  # the trained module, if it is complete in this process
    load_copy: Callable[[], "PreTrainedModel"]  # loads a separate model, for engines that compute in this process


class RolloutEngine(Protocol):
    """Samples with the policy's current weights; weights from before the first sync are never used."""

    shares_weights: bool  # it computes with the trained module itself, so its weights are never stale
    works_elsewhere: bool  # it computes in other processes, so it can sample while this one trains

    def generate(self, requests: Sequence[SampleRequest], sampling: Sampling) -> list[Sample]:
        """One sample for each request of this rank, in order.

        With a third parameter, ``hand_over: HandOver | None = None``, an engine may hand over each sample as soon as it
        is finished, so that it is rewarded while others are generated. All samples are returned in any case.
        """
        ...

    def log_probs(self, sequences: Sequence[Sequence[int]]) -> list[tuple[float, ...]]:
        """Log-probs, in nats at temperature 1, of the tokens of each sequence except its first.

        An engine with several copies of the weights returns the log-probs of all sequences for each copy in turn.
        """
        ...

    def sync_weights(self, weights: WeightSource, policy_version: int) -> None:
        """Load all of the policy's weights. Collective."""
        ...

    def close(self) -> None:
        """Release the engine's resources."""
        ...


def generate(
    engine: RolloutEngine, requests: Sequence[SampleRequest], sampling: Sampling, hand_over: HandOver
) -> list[Sample]:
    """One sample for each request, in order; each is handed over as early as the engine permits.

    Raises:
        SkyrlError: the samples have no ``kept``, and ``sampling`` requires it.
    """
    method: Any = engine.generate
    early = "hand_over" in signature(method).parameters
    samples: list[Sample] = method(requests, sampling, hand_over) if early else method(requests, sampling)
    if sampling.return_kept and any(sample.kept is None for sample in samples):
        raise SkyrlError(
            "rollout.top_p, top_k or min_p leaves out tokens, and the rollout engine does not return those that it "
            "kept (Sample.kept): its log-probs and the trainer's would be of different distributions, and every ratio "
            "of the two biased. Set rollout.top_p to 1, top_k to null and min_p to 0, or rollout.engine to hf"
        )
    for index, sample in enumerate(samples):
        hand_over(index, sample)
    return samples
