"""Measures each family of models that transformers can build small, and generates docs/families.md from it.

`python -m docs.generate_families` prints the table and fails if a family is wrong without an error; `--write` also
writes the page, and keeps its column of vLLM. `--vllm`, in an environment with vLLM, measures and writes that column. A
family has 90 seconds.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

COLUMNS = ("model type", "train", "export", "hf", "vllm")
PAGE = Path(__file__).with_name("families.md")
LIMIT = 90
"""Seconds for a family."""

WITH_VLLM = (
    *("deepseek_v3", "falcon_mamba", "gemma3_text", "glm4_moe", "gpt2", "gpt_neox", "granitemoe", "jamba", "llama"),
    *("mamba", "mistral", "mixtral", "olmoe", "opt", "phi3", "phimoe", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe"),
    "qwen3_next",
)
"""The model types that are tried with vLLM."""

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
`nox -s families -- --write` measures the table again, except the column of vLLM: for that run
`python -m docs.generate_families --vllm` in an environment with vLLM. `nox -s vllm` checks some of its cells.
"""


def main(argv: list[str] | None = None) -> int:
    """Print the table; 1 if a family is wrong without an error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/families.md")
    parser.add_argument("--vllm", action="store_true", help="measure and write the column of vLLM")
    parser.add_argument("families", nargs="*", help="model types; all by default")
    given = parser.parse_args(argv)
    page = _page_rows()
    if given.vllm:
        rows = list(page.values())
        for kind in given.families or WITH_VLLM:
            page[kind]["vllm"] = _with_vllm(kind)
    else:
        rows = [_row(kind, page.get(kind, {}).get("vllm", "")) for kind in given.families or _all_families()]
    if given.write or given.vllm:
        lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|", *map(_line, rows)]
        PAGE.write_text(TITLE + "\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return int(any("WRONG" in cell for row in rows for cell in row.values()))


def _page_rows() -> dict[str, dict[str, str]]:
    """The rows of the page, by model type."""
    rows = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines() if PAGE.exists() else ():
        if line.startswith("| `"):
            kind, *cells = (cell.strip() for cell in line.strip("|").split(" | "))
            rows[kind.strip("`")] = dict(zip(COLUMNS, (kind.strip("`"), *cells), strict=True))
    return rows


def _with_vllm(kind: str) -> str:
    """The cell of vLLM, measured in a separate process: vLLM keeps the groups of the first model."""
    code = "import sys; from tests.trainer.fixtures.family_table import vllm_cell; print(vllm_cell(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, kind], capture_output=True, text=True, check=False)
    cell = done.stdout.strip().rpartition("\n")[2] if done.returncode == 0 else f"fails ({done.stderr.strip()[-80:]})"
    sys.stdout.write(f"{kind}: {cell}\n")
    sys.stdout.flush()
    return cell


def _all_families() -> list[str]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def _row(kind: str, vllm: str) -> dict[str, str]:
    from tests.trainer.fixtures.family_table import measure

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
    row = {"model type": kind, **cells, "vllm": vllm}
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
