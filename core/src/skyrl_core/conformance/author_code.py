"""Finds the line in the author's code, among the frames of torch and of this package."""

import sys
import traceback
from collections.abc import Iterable
from itertools import dropwhile, takewhile
from pathlib import Path

import torch

_CORE = Path(__file__).parents[1]
_AROUND = (str(Path(torch.__file__).parent), str(_CORE / "conformance"), str(_CORE / "contract"))
_Frame = tuple[str, int]


def line_of(error: BaseException) -> str:
    """Return the file and the line in the author's code that led to an error."""
    frames = traceback.extract_tb(error.__traceback__)
    file, line = _of_author((frame.filename, frame.lineno or 0) for frame in reversed(frames))
    return f"{file}, line {line}"


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
