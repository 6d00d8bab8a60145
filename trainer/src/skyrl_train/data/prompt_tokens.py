"""Encodes a row's prompt as token ids, with the tokenizer's chat template if it has one."""

from typing import TYPE_CHECKING, Any

from skyrl_train.data.rows import DataError
from skyrl_train.environments.environment import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode_prompt(row: Row, tokenizer: "PreTrainedTokenizerBase", max_tokens: int) -> tuple[int, ...]:
    """Token ids of the prompt, including the template's generation prompt, for the policy to continue.

    Without a template the prompt is the text of the messages, one per line, with the special tokens that the tokenizer
    adds to any text.

    Raises:
        DataError: the prompt is empty, longer than ``max_tokens``, or rejected by the template.
    """
    ids = _templated(row, tokenizer) if tokenizer.chat_template else _plain(row, tokenizer)
    if not ids:
        raise DataError(f"the prompt of row {row.label} is empty (it has no tokens): correct or remove the row")
    if len(ids) > max_tokens:
        raise DataError(
            f"the prompt of row {row.label} has {len(ids)} tokens, more than rollout.max_prompt_tokens = {max_tokens}: "
            "raise the option or remove the row"
        )
    return tuple(ids)


def _templated(row: Row, tokenizer: Any) -> list[int]:
    messages = [dict(message) for message in row.prompt]
    try:
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
    except Exception as error:  # templates may raise anything, for example at a system message
        roles = ", ".join(message["role"] for message in messages)
        raise DataError(
            f"the chat template of the tokenizer rejects row {row.label} with the roles {roles}: "
            f"{type(error).__name__}: {error}"
        ) from error
    return list(ids)


def _plain(row: Row, tokenizer: Any) -> list[int]:
    text = "".join(f"{message['content']}\n" for message in row.prompt)
    return list(tokenizer(text)["input_ids"])
