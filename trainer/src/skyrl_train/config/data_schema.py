"""Options of the data: sources, columns, prompts, and rows to leave out. Imports no torch."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema, field_validator

from skyrl_train.config.lookups import PathText
from skyrl_train.config.section import Section

SourceName = Annotated[PathText, Field(min_length=1)]
SourceNames = SourceName | Annotated[tuple[SourceName, ...], Field(min_length=1)]
# The types in the list of options, which has little space.
Sources = Annotated[SourceNames, WithJsonSchema({"type": "text/list"})]
SourceSets = Annotated[SourceNames | dict[str, SourceNames], WithJsonSchema({"type": "text/list/mapping"})]
DropReason = Literal["too_long", "invalid"]

SET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
RESERVED_SET_NAMES = (
    "accuracy",
    "grad_norm",
    "kl_reward",
    "loss",
    "response_length",
    "reward",
    "schedule",
    "staleness",
)
"""First parts of the names of metrics; the name of a set must differ from them."""

FIXED_TEMPLATE_ARGS = (
    "add_generation_prompt",
    "chat_template",
    "continue_final_message",
    "conversation",
    "max_length",
    "padding",
    "return_assistant_tokens_mask",
    "return_dict",
    "return_tensors",
    "tokenize",
    "tokenizer_kwargs",
    "truncation",
)
"""Arguments of ``apply_chat_template`` that decide what the trainer receives."""


class DataConfig(Section):
    """Where prompts come from; null uses problems that the environment generates."""

    # The rows themselves are compared.
    free_on_resume = frozenset({"train", "evaluation", "train_split", "evaluation_split", "drop", "system_prompt"}) | {
        "prompt_column",
        "ground_truth_column",
        "environment_column",
    }

    train: Sources | None = Field(
        default=None,
        description="Training rows: a .jsonl or .parquet file, a pattern such as data/*.jsonl, or a hub dataset; "
        "or a list of these, read in order.",
    )
    evaluation: SourceSets | None = Field(
        default=None,
        description="Held-out rows, from the same kinds of source; or a mapping of names to sources: evaluation sets "
        "with separate metrics.",
    )
    train_split: str = Field(default="train", description="Split of a hub dataset for training.")
    evaluation_split: str = Field(default="test", description="Split of a hub dataset for evaluation.")
    prompt_column: str = Field(
        default="prompt", description="Column with the prompt: text or chat messages. A dotted name is a nested value."
    )
    ground_truth_column: str = Field(
        default="ground_truth",
        description="Column with the expected answer, nested if dotted, such as reward_model.ground_truth.",
    )
    environment_column: str = Field(default="environment", description="Column, if any, with the row's environment.")
    shuffle: bool = Field(default=True, description="Shuffle the rows each epoch; the order depends on the seed.")
    system_prompt: str | None = Field(
        default=None, description="System message for each prompt that has none; null adds no message."
    )
    chat_template_args: dict[str, Any] = Field(
        default_factory=dict,
        description="Arguments for the tokenizer's chat template, such as {enable_thinking: false}.",
    )
    drop: tuple[DropReason, ...] = Field(
        default=(),
        description="Rows to leave out instead of an error: too_long (above rollout.max_prompt_tokens), invalid.",
    )
    template_columns: tuple[str, ...] | None = Field(
        default=None,
        description="Columns that the chat template receives, such as [tools, documents]; [] leaves them to the "
        "reward. null refuses rows that have such columns.",
    )

    @property
    def train_sources(self) -> tuple[str, ...]:
        """The sources of training rows, in order; empty if the environment generates the problems."""
        return _listed(self.train)

    @property
    def evaluation_sets(self) -> dict[str, tuple[str, ...]]:
        """The sources of held-out rows by set; a single set without a name is the empty name."""
        if self.evaluation is None:
            return {}
        if isinstance(self.evaluation, dict):
            return {name: _listed(sources) for name, sources in self.evaluation.items()}
        return {"": _listed(self.evaluation)}

    @field_validator("drop", mode="before")
    @classmethod
    def _one_reason(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("evaluation", mode="before")
    @classmethod
    def _valid_set_names(cls, value: Any) -> Any:
        if value == {}:
            raise ValueError("must name at least one evaluation set")
        for name in value if isinstance(value, dict) else ():
            if not isinstance(name, str) or not SET_NAME.fullmatch(name):
                raise ValueError(f"the set name {name!r} must consist of letters, digits, - and _")
            if name in RESERVED_SET_NAMES:
                raise ValueError(f"an evaluation set cannot be named {name}, like a metric; choose another name")
        return value

    @field_validator("chat_template_args")
    @classmethod
    def _no_fixed_argument(cls, value: dict[str, Any]) -> dict[str, Any]:
        fixed = [name for name in value if name in FIXED_TEMPLATE_ARGS]
        if fixed:
            raise ValueError(f"{fixed[0]} cannot be set: the trainer depends on its value; remove it")
        return value


def evaluation_key(name: str) -> str:
    """The option of an evaluation set: ``data.evaluation``, or ``data.evaluation.NAME``."""
    return f"data.evaluation.{name}" if name else "data.evaluation"


def _listed(sources: SourceNames | None) -> tuple[str, ...]:
    if sources is None:
        return ()
    return (sources,) if isinstance(sources, str) else sources
