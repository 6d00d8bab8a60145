"""The first block of the README, run outside the checkout against an index of real wheels, trains the tiny model."""

import json
import re
from pathlib import Path

import pytest

# Torch and its likes are installed for real: minutes on a machine that is busy with other tests.
pytestmark = [pytest.mark.packages, pytest.mark.timeout(1500)]

ROOT = Path(__file__).parents[2]
OURS = ("skyrl-core", "skyrl-train", "skyrl-loss-entropyreg")


def first_block():
    """The commands of the first fenced block in README.md."""
    _, block, *_ = re.split(r"^```.*\n", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    return block.splitlines()


def test_the_first_block_of_the_readme_installs_lists_and_learns(
    tmp_path, new_environment, build_wheel, wheels, index, run
):
    for name, wheel in (wheels | {"skyrl-train": build_wheel(ROOT / "trainer")}).items():
        index.add(name, wheel)
    environment = new_environment(tmp_path / "venv", with_pip=True)
    # Most modules of torch and transformers are never imported here, so compiling them all would only cost time.
    settings = environment.settings_with(index.address) | {"PIP_COMPILE": "0"}
    folder = tmp_path / "elsewhere"
    folder.mkdir()

    install, listing, train = first_block()
    installed = run("bash", "-c", install, cwd=folder, **settings)
    for name in OURS:
        assert re.search(rf"Downloading {re.escape(index.address)}/{name}/\S+\.whl", installed), installed
    assert re.search(r"^entropy_reg ", run("bash", "-c", listing, cwd=folder, **settings), flags=re.MULTILINE)
    run("bash", "-c", train, cwd=folder, **settings)

    [metrics] = folder.glob("runs/entropy_reg-*/metrics.jsonl")
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    before, after = (line["accuracy"] for line in lines if line["kind"] == "evaluation")
    print(f"held-out accuracy {before:.3f} -> {after:.3f}")
    assert before < 0.6
    assert after >= 0.8

    extra = run("bash", "-c", "pip install --no-deps 'skyrl-loss-entropyreg[train]' 2>&1", cwd=folder, **settings)
    assert "does not provide the extra" not in extra
