"""What an environment is: problems, if it generates them, and a reward for each answer."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from skyrl_core.discovery import shortened

Split = Literal["train", "evaluation"]
Message = dict[str, str]
"""A chat message: ``{"role": "user", "content": "..."}``."""


class EnvironmentParams(BaseModel):
    """Base class of an environment's parameter schema: unknown keys, infinities and NaN are errors.

    A schema with a field ``task`` takes the part after the colon of a reference such as ``reasoning_gym:leg_counting``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)


_LABEL_LENGTH = 48


@dataclass(frozen=True, kw_only=True)
class Row:
    """One problem, from a file, a hub or an environment that generates it."""

    prompt: tuple[Message, ...]
    ground_truth: str
    environment: str  # the reference of the environment that rewards it, NAME or NAME:TASK
    extra: Mapping[str, Any] = field(default_factory=dict)  # the other columns of the row

    @property
    def uid(self) -> str:
        """Twelve hex digits that are the same for the same problem, in every process, on every machine."""
        problem = json.dumps([self.prompt, self.ground_truth, self.environment], sort_keys=True)
        return hashlib.blake2b(problem.encode(), digest_size=6).hexdigest()

    @property
    def label(self) -> str:
        """How messages name the row: its uid and the start of its last message."""
        text = " ".join(self.prompt[-1]["content"].split()) if self.prompt else ""
        return f'{self.uid} "{shortened(text, _LABEL_LENGTH)}"'


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One answer as the policy gave it."""

    text: str
    token_ids: tuple[int, ...]
    finished: bool  # the policy ended it itself; False when the token limit cut it off


class Environment(ABC):
    """Rewards answers; may generate its own problems.

    An instance is pickled into worker processes, so it holds plain data only. Importing the module must not import
    torch.
    """

    name: ClassVar[str]
    """Equals the entry-point name."""
    Params: ClassVar[type[EnvironmentParams]] = EnvironmentParams

    def __init__(self, params: EnvironmentParams) -> None:
        self.params: Any = params

    def rows(self, split: Split, *, seed: int) -> Iterator[Row] | None:  # noqa: ARG002 - for those that generate
        """Problems without end, the same for the same seed; None where the rows come from data files.

        The two splits share no problem.
        """
        return None

    @property
    def generates_problems(self) -> bool:
        """Whether ``rows`` is its own: if not, a run needs data files."""
        return type(self).rows is not Environment.rows

    def warm_up(self) -> None:  # noqa: B027 - most environments have nothing to prepare
        """Called once in each worker process before its first reward, outside the deadline: for slow imports."""

    @abstractmethod
    def reward(self, completion: Completion, row: Row) -> float:
        """The reward of an answer, a finite number. May raise: the trainer names the sample and goes on."""
