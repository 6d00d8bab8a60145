"""Strings that end a response, the same for every rollout engine.

A response ends with the token that completes a stop string; its token ids and log-probs stay as they were sampled. The
text that environments see ends before the stop string. Only the response is searched, never the prompt.
"""

from collections.abc import Sequence
from typing import Any

MARGIN = 8
"""Tokens decoded before those that can hold the longest stop string: the first one may be decoded differently."""


class StopStrings:
    """Finds the end of responses."""

    def __init__(self, stop: Sequence[str], tokenizer: Any) -> None:
        self._stop = tuple(stop)
        self._tokenizer = tokenizer
        # A token that is part of the text has at least one byte.
        self.window = max((len(string.encode()) for string in stop), default=0) + MARGIN

    def __bool__(self) -> bool:
        return bool(self._stop)

    def ends(self, tails: Sequence[Sequence[int]]) -> list[bool]:
        """Whether a stop string appears in each of these ends of responses, of at least ``window`` tokens."""
        texts = self._tokenizer.batch_decode([list(ids) for ids in tails], skip_special_tokens=True)
        return [any(string in text for string in self._stop) for text in texts]

    def length(self, token_ids: Sequence[int]) -> int | None:
        """The number of tokens up to the one that completes the first stop string; None without one."""
        if not self._stop or not self._found(token_ids):
            return None
        low, high = 1, len(token_ids)
        while low < high:  # once a stop string has appeared, it stays
            middle = (low + high) // 2
            low, high = (low, middle) if self._found(token_ids[:middle]) else (middle + 1, high)
        return low

    def _found(self, token_ids: Sequence[int]) -> bool:
        return self.ends([token_ids])[0]


def before_stop(text: str, stop: Sequence[str]) -> str:
    """The text before the first stop string in it."""
    return text[: min((text.find(string) for string in stop if string in text), default=len(text))]
