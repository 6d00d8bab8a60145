"""Encodes a row's prompt as token ids, and checks that nothing of it is lost and that it fits the model."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from skyrl_core.errors import did_you_mean
from skyrl_train.config.data_schema import DropReason
from skyrl_train.config.schema import RunConfig
from skyrl_train.data.row_problem import DataError
from skyrl_train.environments.environment import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NO_ARGS: Mapping[str, Any] = MappingProxyType({})

LIMITS = "skyrl_model_limits"
"""The attribute of a tokenizer with the limits of its model."""

TEMPLATE_COLUMNS = ("tools", "documents", "images", "videos", "audio")
"""Columns that chat templates know. A row that has one was written for a template that receives it."""


class PromptError(DataError):
    """The prompt of a row cannot be used; ``problem`` completes "the prompt ..."."""

    def __init__(self, row: Row, problem: str, reason: DropReason = "invalid") -> None:
        self.problem = problem
        self.reason = reason
        super().__init__(f"the prompt of row {row.label} {problem}")


@dataclass(frozen=True, kw_only=True)
class ModelLimits:
    """The sizes of a model that its prompts must respect; None if there is no such limit."""

    positions: int | None = None  # tokens of a prompt and its response together
    vocabulary: int | None = None  # rows of the embedding


class PromptEncoder:
    """Encodes prompts as token ids for the policy to continue, and checks them against the model.

    With a chat template they include its generation prompt; a last message of the assistant is continued. Without one
    they are the text of the messages, one per line, with the special tokens that the tokenizer puts before any text.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        *,
        max_tokens: int,
        template_args: Mapping[str, Any] = NO_ARGS,
        template_columns: Sequence[str] | None = None,
        new_tokens: tuple[str, int] = ("rollout.max_new_tokens", 0),
    ) -> None:
        """Check tokenizer and model against each other.

        Args:
            tokenizer: from ``load_tokenizer``, which adds the limits of its model.
            max_tokens: the longest prompt.
            template_args: arguments of the chat template.
            template_columns: columns of a row that the chat template receives; None refuses rows with such columns.
            new_tokens: the option that limits responses, and its value.

        Raises:
            DataError: the chat template does not read an argument or a column, or model and tokenizer do not fit.
        """
        self._tokenizer: Any = tokenizer
        self._max_tokens = max_tokens
        self._args = template_args
        self._columns = template_columns
        self._new_tokens = new_tokens
        self._limits: ModelLimits = getattr(tokenizer, LIMITS, ModelLimits())
        check_template_args(tokenizer, template_args)
        check_template_args(tokenizer, dict.fromkeys(template_columns or ()), option="data.template_columns")
        self._words = _words_of(tokenizer)
        self._prefix = _special_tokens_before(tokenizer)
        self._check_model()

    @classmethod
    def of(cls, config: RunConfig, tokenizer: "PreTrainedTokenizerBase", *, evaluation: bool = False) -> Self:
        """The encoder of a run's training prompts or of its held-out prompts."""
        if evaluation and config.evaluation.stop is not None:
            check_stop_strings(tokenizer, config.evaluation.stop, "evaluation.stop")
        else:
            check_stop_strings(tokenizer, config.rollout.stop, "rollout.stop")
        option, count = "rollout.max_new_tokens", config.rollout.max_new_tokens
        if evaluation and config.evaluation.max_new_tokens is not None:
            option, count = "evaluation.max_new_tokens", config.evaluation.max_new_tokens
        return cls(
            tokenizer,
            max_tokens=config.rollout.max_prompt_tokens,
            template_args=config.data.chat_template_args,
            template_columns=config.data.template_columns,
            new_tokens=(option, count),
        )

    def encode(self, row: Row) -> tuple[int, ...]:
        """Token ids of the row's prompt.

        Raises:
            PromptError: the prompt is empty or too long, contains a token that the model does not have, or is rejected,
                ended or not completely used by the template.
        """
        ids = self._templated(row) if self._tokenizer.chat_template else self._plain(row)
        if not ids:
            raise PromptError(row, "is empty (it has no tokens): correct or remove the row")
        self._check_length(row, len(ids))
        vocabulary = self._limits.vocabulary
        if vocabulary is not None and max(ids) >= vocabulary:
            token = self._tokenizer.convert_ids_to_tokens(max(ids))
            raise PromptError(
                row,
                f"contains the token {max(ids)} ({token!r}), but the model has only {vocabulary} tokens: use the "
                "model's tokenizer, or remove that text",
            )
        return tuple(ids)

    def _check_model(self) -> None:
        option, count = self._new_tokens
        positions, vocabulary = self._limits.positions, self._limits.vocabulary
        if positions is not None and count >= positions:
            raise DataError(
                f"{option} = {count} leaves no room for a prompt: the model has {positions} positions; lower the option"
            )
        end = self._tokenizer.eos_token_id
        if vocabulary is not None and end is not None and end >= vocabulary:
            raise DataError(
                f"the tokenizer has {len(self._tokenizer)} tokens and ends responses with token {end} "
                f"({self._tokenizer.eos_token!r}), but the model has only {vocabulary} tokens: use the model's "
                "tokenizer"
            )

    def _check_length(self, row: Row, length: int) -> None:
        if length > self._max_tokens:
            raise PromptError(
                row,
                f"has {length} tokens, more than rollout.max_prompt_tokens = {self._max_tokens}: "
                "raise the option or remove the row",
                "too_long",
            )
        option, count = self._new_tokens
        positions = self._limits.positions
        if positions is not None and length + count > positions:
            raise PromptError(
                row,
                f"has {length} tokens, and with {option} = {count} more than the {positions} positions of the model: "
                "lower the option or remove the row",
                "too_long",
            )

    def _templated(self, row: Row) -> list[int]:
        messages = [dict(message) for message in row.prompt]
        self._check_parts(row)
        continued = messages[-1]["role"] == "assistant"
        fixed = {"tokenize": False, "add_generation_prompt": not continued, "continue_final_message": continued}
        columns = {name: row.extra[name] for name in self._columns or () if row.extra.get(name) is not None}
        try:
            text = str(self._tokenizer.apply_chat_template(messages, **self._args, **columns, **fixed))
        except Exception as error:  # templates may raise anything, for example at a system message
            roles = ", ".join(message["role"] for message in messages)
            why = f"{type(error).__name__}: {error}"
            raise PromptError(
                row, f"is rejected by the tokenizer's chat template, with the roles {roles}: {why}"
            ) from error
        if not text:
            return []
        for number, message in enumerate(messages):
            if not _writes(text, message["content"]):
                raise PromptError(
                    row,
                    f"loses message {number} ({message['role']}): the tokenizer's chat template does not write its "
                    "content; use a role that it knows, or remove the message",
                )
        end = self._tokenizer.eos_token
        if end and text.rstrip().endswith(end):
            raise PromptError(
                row,
                f"ends with the end token {end!r}: the tokenizer's chat template adds no generation prompt; correct "
                "the template",
            )
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _plain(self, row: Row) -> list[int]:
        for message in row.prompt:
            others = sorted(message.keys() - {"role", "content"})
            if others:
                raise PromptError(
                    row, f"has messages with {others[0]!r}, and the tokenizer has no chat template: remove it"
                )
        self._check_columns(row)
        text = "\n".join(message["content"] for message in row.prompt)
        continued = row.prompt[-1]["role"] == "assistant"
        ids = self._tokenizer(text if continued else f"{text}\n", add_special_tokens=False)["input_ids"]
        return [*self._prefix, *ids] if ids else []

    def _check_parts(self, row: Row) -> None:
        """Refuse parts of messages and columns that would be dropped."""
        for number, message in enumerate(row.prompt):
            for name in message.keys() - {"role", "content"} - self._words:
                raise PromptError(
                    row,
                    f"has {name!r} in message {number}, which the tokenizer's chat template does not read: remove it",
                )
        self._check_columns(row)

    def _check_columns(self, row: Row) -> None:
        if self._columns is not None:
            return
        for name in TEMPLATE_COLUMNS:
            if row.extra.get(name):
                raise PromptError(
                    row,
                    f"comes with a column {name!r}, which the model would not see: set "
                    f"data.template_columns=[{name}], or [] to leave it to the reward",
                )


def check_template_args(
    tokenizer: "PreTrainedTokenizerBase", template_args: Mapping[str, Any], option: str = "data.chat_template_args"
) -> None:
    """Check that the tokenizer's chat template reads every argument.

    Raises:
        DataError: there is no template, or it does not read an argument.
    """
    if not template_args:
        return
    if not tokenizer.chat_template:
        raise DataError(f"{option} has no effect: the tokenizer has no chat template; remove the option")
    words = _words_of(tokenizer)
    for name in template_args:
        if name not in words:
            raise DataError(
                f"{option}.{name} has no effect: the tokenizer's chat template does not read it"
                f"{did_you_mean(name, sorted(words))}; correct or remove it"
            )


def check_stop_strings(tokenizer: "PreTrainedTokenizerBase", stop: Sequence[str], option: str) -> None:
    """Check that stop strings can appear in the text of a response.

    Raises:
        DataError: one contains a special token, which is not part of that text.
    """
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    for string in stop:
        for token in sorted(special):
            if token in string:
                raise DataError(
                    f"{option}: {string!r} contains the special token {token!r}, which stop strings are not compared "
                    "with, so no response would end there: remove it"
                )


def _words_of(tokenizer: "PreTrainedTokenizerBase") -> set[str]:
    """The names that a chat template may read."""
    template = tokenizer.chat_template
    text = "\n".join(map(str, template.values())) if isinstance(template, Mapping) else str(template or "")
    return set(re.findall(r"[A-Za-z_]\w*", text))


def _special_tokens_before(tokenizer: Any) -> list[int]:
    """The special tokens that a tokenizer puts before any text. One that it puts after a text would end each prompt."""
    ids = list(tokenizer("a")["input_ids"])
    text = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    for start in range(len(ids) - len(text) + 1):
        if ids[start : start + len(text)] == text:
            return ids[:start]
    return []


def _writes(text: str, content: str) -> bool:
    """Whether a template has written a content: stripped, as JSON, or without the reasoning of an earlier turn."""
    content = content.rpartition("</think>")[2].strip()
    return content in text or json.dumps(content, ensure_ascii=False)[1:-1] in text
