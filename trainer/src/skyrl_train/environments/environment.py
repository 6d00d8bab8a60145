"""The base class of environments: a reward for each answer and, optionally, generated problems."""

import hashlib
import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from skyrl_core.discovery import Guard, shortened
from skyrl_core.parameters import StrictModel
from skyrl_train.config.plugin_check import ENVIRONMENT_GROUP

Split = Literal["train", "evaluation"]
Reward = float | None | Mapping[str, float | None]
"""A reward; None for no verdict; or several rewards by name, of which one None means no verdict."""
Message = dict[str, Any]
"""A chat message: ``{"role": "user", "content": "..."}``, and other keys that the chat template reads."""


class EnvironmentParams(StrictModel):
    """Base class of an environment's parameter schema, as strict as that of a loss.

    A schema with a field ``task`` takes the part after the colon of a reference such as ``reasoning_gym:leg_counting``.
    """


_LABEL_LENGTH = 48

_TOLERANCE = 1e-6
"""A sum such as 0.1 + 0.2 + 0.7 may miss its exact value by rounding."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One problem from a file, a hub or an environment."""

    prompt: tuple[Message, ...]
    ground_truth: str
    environment: str  # the reference of the environment that rewards it, NAME or NAME:TASK
    extra: Mapping[str, Any] = field(default_factory=dict)  # the other columns of the row
    place: str = field(default="", compare=False)  # FILE:LINE, or FILE, row NUMBER; empty for a generated row

    @property
    def uid(self) -> str:
        """Twelve hex digits that identify the problem in every process and on every machine."""
        problem = json.dumps([self.prompt, self.ground_truth, self.environment], sort_keys=True)
        return hashlib.blake2b(problem.encode(), digest_size=6).hexdigest()

    @property
    def answer_start(self) -> str:
        """The beginning of the answer, which the policy continues: a last message of the assistant; usually empty."""
        last = self.prompt[-1] if self.prompt else {}
        return str(last["content"]) if last.get("role") == "assistant" else ""

    @property
    def question(self) -> str:
        """The last message before the answer."""
        messages = self.prompt[:-1] if self.answer_start else self.prompt
        return str((messages or self.prompt)[-1]["content"]) if self.prompt else ""

    @property
    def label(self) -> str:
        """The name of the row in messages: its uid and the start of its question."""
        text = " ".join(self.question.split())
        return f'{self.uid} "{shortened(text, _LABEL_LENGTH)}"'


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One answer of the policy."""

    text: str
    token_ids: tuple[int, ...]
    finished: bool  # whether the policy ended it; False if the token limit cut it off


class Environment(ABC):
    """Base class of environments: rewards answers and may generate problems.

    An instance is pickled into worker processes, so it must hold plain data only. Importing its module must not import
    torch.
    """

    name: ClassVar[str]
    """Equals the entry-point name."""
    Params: ClassVar[type[EnvironmentParams]] = EnvironmentParams
    solved_at: float | None = None
    """The reward from which an answer counts as solved. None: the environment does not say, so a run has reward means
    but neither accuracy nor pass@k. The option ``environment.solved_at`` overrides it."""

    def __init__(self, params: EnvironmentParams) -> None:
        self.params: Any = params

    def rows(self, split: Split, *, seed: int) -> Iterator[Row] | None:  # noqa: ARG002 - for those that generate
        """Endless problems, the same for the same seed; None if the rows come from data files.

        The two splits must share no problem.
        """
        return None

    @property
    def generates_problems(self) -> bool:
        """Whether the class overrides ``rows``; if not, a run needs data files."""
        return type(self).rows is not Environment.rows

    @property
    def is_async(self) -> bool:
        """Whether ``reward`` is awaited."""
        return inspect.iscoroutinefunction(self.reward)

    def check_row(self, row: Row) -> str | None:  # noqa: ARG002 - for those that check
        """The reason why no answer to this row could be rewarded, or None; called for each row before training."""
        return None

    def warm_up(self) -> None:  # noqa: B027 - most environments have nothing to prepare
        """Prepare a worker process, for example by slow imports; called once, before the first deadline."""

    def solved(self, reward: float) -> bool | None:
        """Whether an answer with this reward solves the problem; None if the environment does not say."""
        return None if self.solved_at is None else reward >= self.solved_at - _TOLERANCE

    @abstractmethod
    def reward(self, completion: Completion, row: Row) -> Reward | Awaitable[Reward]:
        """The reward of an answer, a finite number, or several by name, which ``environment.weights`` add up.

        None means no verdict: the sample is left out of the step. May raise: the trainer reports the sample and leaves
        it out, too. An ``async def`` is awaited; those of many answers run at the same time in one event loop.
        """


def guard_of(environment: Environment, reference: str) -> Guard:
    """The guard for calls of its code outside reward workers; ``reference`` names one that is not installed."""
    return ENVIRONMENT_GROUP.guard_of(type(environment), f"environment {reference}")
