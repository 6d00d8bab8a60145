"""Writes the pictures of the terminal in screens/: `nox -s screens`.

Every command runs in a pseudo-terminal of 80 or 120 columns, with colours; the picture is what that terminal shows.
"""

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import pyte
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text
from tests.trainer.tracking.terminal_window import run_in_window

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "screens"
FORMAT = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
"""Without fonts from another server: a page must not load anything from elsewhere."""
WRONG = '''"""A loss that ignores the mask."""
from skyrl_core import LossParams, PolicyLoss, TokenLosses

class Wrong(PolicyLoss):
    name = "wrong"
    Params = LossParams
    api_version = 1
    semantics_version = 1
    reference = "none"

    def token_losses(self, batch):
        return TokenLosses(values=-batch.advantages * batch.log_probs.cumsum(1))
'''


class Picture(NamedTuple):
    """A command and its picture."""

    name: str
    columns: int
    command: str
    moment: str = ""
    """The picture shows the first moment with this text; without one, the end."""


TRAINING = "skyrl train --loss gspo trainer.steps=40 run_folder=runs/gspo"
PICTURES = (
    *(Picture("list", columns, "skyrl losses list") for columns in (80, 120)),
    *(Picture("show", columns, "skyrl losses show gspo") for columns in (80, 120)),
    Picture("check", 80, "skyrl losses check wrong:Wrong"),
    Picture("help", 80, "skyrl losses check --help"),
    Picture(
        "error", 80, "skyrl train --loss gspo trainer.optimiser.learning_rate=1e-5 trainer.algorithm.gspo.clip_hi=1"
    ),
    Picture("plan", 120, "skyrl train --loss gspo --dry-run"),
    *(Picture("training", columns, TRAINING, "step 25/40") for columns in (80, 120)),
    Picture("finished", 80, TRAINING),
)


def main() -> None:
    """Write all pictures, or those whose name is an argument."""
    FOLDER.mkdir(exist_ok=True)
    for picture in PICTURES:
        if len(sys.argv) == 1 or picture.name in sys.argv[1:]:
            file = FOLDER / f"{picture.name}_{picture.columns}.svg"
            file.write_text(draw(picture), encoding="utf-8")
            sys.stdout.write(f"{file.relative_to(ROOT)}\n")


def draw(picture: Picture) -> str:
    """The picture as SVG."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "wrong.py").write_text(WRONG)
        program = f"cd {folder} && exec {Path(sys.executable).parent}/{picture.command}"
        window = run_in_window(["/bin/sh", "-c", program], columns=picture.columns, rows=100, PYTHONWARNINGS="ignore")
        shown = window.raw.replace(folder.encode() + b"/", b"").replace(str(ROOT).encode(), b"...")
    screen = pyte.Screen(picture.columns, 100)
    stream = pyte.ByteStream(screen)
    for frame in re.split(rb"(?=\r\x1b\[2K)", shown):  # the live display is erased and drawn again
        stream.feed(frame)
        if picture.moment and any(picture.moment in line for line in screen.display):
            break
    console = Console(
        record=True, width=picture.columns, file=StringIO(), force_terminal=True, color_system="truecolor"
    )
    console.print(Text(f"$ {picture.command}", style="bold"), soft_wrap=False)
    for line in _lines(screen):
        console.print(line, soft_wrap=True)
    svg = console.export_svg(title="", code_format=FORMAT, unique_id=f"screen-{picture.name}-{picture.columns}")
    return re.sub(r"[ \t]+$", "", svg, flags=re.MULTILINE)


def _lines(screen: pyte.Screen) -> Iterator[Text]:
    """The lines of the screen down to the last that is not empty."""
    last = max(number for number, line in enumerate(screen.display) if line.strip())
    for number in range(last + 1):
        text = Text()
        for column in range(screen.columns):
            cell = screen.buffer[number][column]
            colours = [_colour(cell.fg)] if cell.fg != "default" else []
            text.append(cell.data, " ".join([*colours, *(["bold"] if cell.bold else [])]))
        text.rstrip()
        yield text


def _colour(name: str) -> str:
    known = name.replace("brown", "yellow").replace("bright", "bright_")
    return f"#{known}" if re.fullmatch("[0-9a-f]{6}", known) else known


if __name__ == "__main__":
    os.chdir(ROOT)
    main()
