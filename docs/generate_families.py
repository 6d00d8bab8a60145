"""Measures each family of models that transformers can build small, and generates docs/families.md from it.

`python -m docs.generate_families` prints the table and fails if a family is wrong without an error; `--write` also
writes the page. A family has 90 seconds.
"""

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("families.md")
LIMIT = 90
"""Seconds for a family."""

TITLE = """# Model families

Each row is a small random model, saved as a checkpoint and loaded as a run loads it, compared with plain transformers
in float32: one sequence at a time, without padding, cache or sharing.

- **train**: the log-probs of padded responses; *shared* if the samples of a prompt share its computation.
- **export**: the log-probs of the exported model, loaded by transformers.
- **hf**: the log-probs of samples of the rollout engine `hf`, of prompts of different lengths in one batch, while rows
  leave it; *direct* if it decodes without transformers' forward pass.
- **vllm**: the log-probs of samples of the rollout engine `vllm` on a CPU, after a weight sync with noise and one
  without. An empty cell was not tried.

*ok* means a difference below 1e-4 nats. *refused* means that a run ends at the start with an error that names the
reason and what to do. `-` means that transformers cannot build this one from the same small sizes, so nothing is known.
`nox -s families -- --write` measures the table again, without the column of vLLM, which `nox -s vllm` checks in part.
"""


def main(argv: list[str] | None = None) -> int:
    """Print the table; 1 if a family is wrong without an error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/families.md")
    parser.add_argument("families", nargs="*", help="model types; all by default")
    given = parser.parse_args(argv)
    rows = [_row(kind) for kind in given.families or _all_families()]
    if given.write:
        lines = ["| model type | train | export | hf | vllm |", "|---|---|---|---|---|", *map(_line, rows)]
        PAGE.write_text(TITLE + "\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return int(any("WRONG" in cell for row in rows for cell in row.values()))


def _all_families() -> list[str]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def _row(kind: str) -> dict[str, str]:
    from tests.trainer.fixtures.family_table import VLLM, measure

    from skyrl_train.ranks.ranks import ALONE, Ranks

    os.environ.update(ALONE)
    signal.signal(signal.SIGALRM, _too_slow)
    signal.alarm(LIMIT)
    try:
        with tempfile.TemporaryDirectory() as folder:
            cells: dict[str, str] = measure(kind, Path(folder), Ranks())
    except TimeoutError as error:
        cells = {"train": f"- ({error})", "export": "-", "hf": "-"}
    finally:
        signal.alarm(0)
    row = {"model type": kind, **cells, "vllm": VLLM.get(kind, "")}
    sys.stdout.write(_line(row) + "\n")
    sys.stdout.flush()
    return row


def _line(row: dict[str, str]) -> str:
    kind, *cells = (cell.replace("|", "\\|") for cell in row.values())
    return f"| `{kind}` | {' | '.join(cells)} |"


def _too_slow(*_: Any) -> None:
    raise TimeoutError(f"more than {LIMIT} s")


if __name__ == "__main__":
    sys.exit(main())
