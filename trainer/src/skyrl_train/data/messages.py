"""Checks the chat messages of a row."""

from typing import Any

from skyrl_train.data.json_record import Numeral, as_data, check_text
from skyrl_train.data.row_problem import shown
from skyrl_train.environments.environment import Message

WANTED = 'a chat message, {"role": "user", "content": "..."}'


def messages_of(value: object) -> tuple[Message, ...]:
    """The messages of a prompt column: text is one user message.

    Keys other than role and content, such as name and tool_calls, are kept for the chat template.

    Raises:
        ValueError: the value is neither text nor a list of messages, or has no text.
    """
    if _is_text(value):
        messages: tuple[Message, ...] = ({"role": "user", "content": value},)
    elif isinstance(value, list) and value:
        messages = tuple(_message(number, item) for number, item in enumerate(value))
    else:
        raise ValueError(f"{shown(value)} is not text or a list of chat messages")
    for number, message in enumerate(messages):
        try:
            check_text(message["content"])
        except ValueError as error:
            raise ValueError(f"message {number}: {error}: correct the text") from None
    if not any(message["content"].strip() for message in messages):
        raise ValueError(f"{shown(value)} is not a prompt with text in it")
    return messages


def _message(number: int, value: object) -> Message:
    if not isinstance(value, dict):
        raise ValueError(f"message {number}: {shown(value)} is not {WANTED}")
    # A struct column has every key in every row, with null for keys that were not given.
    given = {key: item for key, item in value.items() if item is not None}
    others = {key: item for key, item in given.items() if key not in ("role", "content")}
    content = _content(number, given.get("content", "" if others else None))
    if content is None or not _is_text(given.get("role")) or not given["role"].strip():
        raise ValueError(f"message {number}: {shown(value)} is not {WANTED}")
    return {"role": given["role"], "content": content, **as_data(others)}


def _content(number: int, value: object) -> str | None:
    """The text of a message's content, which may be a list with one part of text."""
    if _is_text(value):
        return str(value)
    if not isinstance(value, list):
        return None
    parts = [part for part in value if isinstance(part, dict)]
    kinds = [part.get("type") for part in parts]
    if len(value) == 1 and kinds == ["text"] and _is_text(parts[0].get("text")):
        return str(parts[0]["text"])
    if any(kind not in ("text", None) for kind in kinds):
        other = next(kind for kind in kinds if kind not in ("text", None))
        raise ValueError(
            f"message {number}: a part of type {shown(other)} cannot be used: models are trained on text only"
        )
    raise ValueError(f"message {number}: {shown(value)} is not text: join its parts to one text")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not isinstance(value, Numeral)
