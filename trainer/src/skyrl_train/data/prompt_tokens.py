"""Encodes a row's prompt as token ids, with the tokenizer's chat template if it has one."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from skyrl_core.errors import did_you_mean
from skyrl_train.config.data_schema import DropReason
from skyrl_train.data.row_problem import DataError
from skyrl_train.environments.environment import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NO_ARGS: Mapping[str, Any] = MappingProxyType({})


class PromptError(DataError):
    """The prompt of a row cannot be used; ``problem`` completes "the prompt ..."."""

    def __init__(self, row: Row, problem: str, reason: DropReason = "invalid") -> None:
        self.problem = problem
        self.reason = reason
        super().__init__(f"the prompt of row {row.label} {problem}")


def encode_prompt(
    row: Row, tokenizer: "PreTrainedTokenizerBase", max_tokens: int, template_args: Mapping[str, Any] = NO_ARGS
) -> tuple[int, ...]:
    """Token ids of the prompt, including the template's generation prompt, for the policy to continue.

    Without a template the prompt is the text of the messages, one per line, with the special tokens that the tokenizer
    adds to any text. ``template_args`` are passed to the template.

    Raises:
        PromptError: the prompt is empty, longer than ``max_tokens``, or rejected by the template.
    """
    ids = _templated(row, tokenizer, template_args) if tokenizer.chat_template else _plain(row, tokenizer)
    if not ids:
        raise PromptError(row, "is empty (it has no tokens): correct or remove the row")
    if len(ids) > max_tokens:
        raise PromptError(
            row,
            f"has {len(ids)} tokens, more than rollout.max_prompt_tokens = {max_tokens}: "
            "raise the option or remove the row",
            "too_long",
        )
    return tuple(ids)


def check_template_args(tokenizer: "PreTrainedTokenizerBase", template_args: Mapping[str, Any]) -> None:
    """Check that the tokenizer's chat template reads every argument.

    Raises:
        DataError: there is no template, or it does not read an argument.
    """
    if not template_args:
        return
    template = tokenizer.chat_template
    if not template:
        raise DataError("data.chat_template_args has no effect: the tokenizer has no chat template; remove the option")
    text = "\n".join(map(str, template.values())) if isinstance(template, Mapping) else str(template)
    words = set(re.findall(r"[A-Za-z_]\w*", text))
    for name in template_args:
        if name not in words:
            raise DataError(
                f"data.chat_template_args.{name} has no effect: the tokenizer's chat template does not read it"
                f"{did_you_mean(name, sorted(words))}; correct or remove it"
            )


def _templated(row: Row, tokenizer: Any, template_args: Mapping[str, Any]) -> list[int]:
    messages = [dict(message) for message in row.prompt]
    fixed = {"add_generation_prompt": True, "tokenize": True, "return_dict": False}
    try:
        ids = tokenizer.apply_chat_template(messages, **template_args, **fixed)
    except Exception as error:  # templates may raise anything, for example at a system message
        roles = ", ".join(message["role"] for message in messages)
        why = f"{type(error).__name__}: {error}"
        raise PromptError(
            row, f"is rejected by the tokenizer's chat template, with the roles {roles}: {why}"
        ) from error
    return list(ids)


def _plain(row: Row, tokenizer: Any) -> list[int]:
    text = "".join(f"{message['content']}\n" for message in row.prompt)
    return list(tokenizer(text)["input_ids"])
