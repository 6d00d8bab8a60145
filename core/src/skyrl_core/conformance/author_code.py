"""Finds the line in the author's code, among the frames of torch and of this package."""

import sys
from collections.abc import Iterable
from itertools import dropwhile, takewhile
from pathlib import Path

import torch

from skyrl_core.contract.policy_loss import PolicyLoss
from skyrl_core.discovery.plugin_call import author_places

_CORE = Path(__file__).parents[1]
_AROUND = (str(Path(torch.__file__).parent), str(_CORE / "conformance"), str(_CORE / "contract"))
_Frame = tuple[str, int]


def author_place(error: BaseException, loss: PolicyLoss) -> str:
    """Return the file and the line in the code of a loss that led to an error."""
    return (author_places(error, type(loss).__module__) or ["an unknown line"])[-1]


def current_line() -> str:
    """Return the name of the file and the line in the author's code that is running."""
    frames, frame = list[_Frame](), sys._getframe(1)
    while frame.f_back:
        frames.append((frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back
    file, line = _of_author(frames)
    return f"{Path(file).name}, line {line}"


def _of_author(frames: Iterable[_Frame]) -> _Frame:
    """Choose a frame of a stranger before one of the maths in this package; the innermost frame comes first."""
    frames = list(frames)
    called = list(takewhile(lambda frame: not _is_around(frame), dropwhile(_is_around, frames)))
    strange = [frame for frame in called if not frame[0].startswith(str(_CORE))]
    return (strange or called or frames)[0]


def _is_around(frame: _Frame) -> bool:
    return frame[0].startswith(_AROUND)
