"""A row's prompt as token ids: through the chat template where the tokenizer has one."""

from typing import TYPE_CHECKING, Any

from skyrl_train.data.rows import DataError
from skyrl_train.environments.environment import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode_prompt(row: Row, tokenizer: "PreTrainedTokenizerBase", max_tokens: int) -> tuple[int, ...]:
    """Token ids of the prompt, ready for the policy to go on: the generation prompt of the template is included.

    Without a template the prompt is the text of the messages, one a line, with the special tokens that the tokenizer
    puts around any text.

    Raises:
        DataError: the prompt is empty, longer than ``max_tokens``, or the template refuses it.
    """
    ids = _templated(row, tokenizer) if tokenizer.chat_template else _plain(row, tokenizer)
    if not ids:
        raise DataError(f"the prompt of row {row.label} is empty: it has no tokens")
    if len(ids) > max_tokens:
        raise DataError(
            f"the prompt of row {row.label} has {len(ids)} tokens, more than rollout.max_prompt_tokens = {max_tokens}: "
            "raise the option, or leave the row out"
        )
    return tuple(ids)


def _templated(row: Row, tokenizer: Any) -> list[int]:
    messages = [dict(message) for message in row.prompt]
    try:
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
    except Exception as error:  # templates raise what they like, for a system message, say
        roles = ", ".join(message["role"] for message in messages)
        raise DataError(
            f"the chat template of the tokenizer refuses row {row.label} with the roles {roles}: "
            f"{type(error).__name__}: {error}"
        ) from error
    return list(ids)


def _plain(row: Row, tokenizer: Any) -> list[int]:
    text = "".join(f"{message['content']}\n" for message in row.prompt)
    return list(tokenizer(text)["input_ids"])
