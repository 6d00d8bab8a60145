"""The comparison of all ranks before training, and its errors."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from skyrl_core.errors import SkyrlError
from skyrl_train.config.load_config import resolve_run
from skyrl_train.data.prompt_source import LoadedRows
from skyrl_train.environments.environment import Row
from skyrl_train.environments.load_environment import load_environment
from skyrl_train.ranks import same_run as fingerprint
from skyrl_train.ranks.same_run import check_data, check_run

TORCHRUN = [str(Path(sys.executable).parent / "torchrun"), "--nproc-per-node", "2"]


def rows(*prompts):
    made = [Row(prompt=({"role": "user", "content": text},), ground_truth="1", environment="e") for text in prompts]
    return LoadedRows(made, seed=0, shuffle=False)


def facts(*overrides, resume=None):
    """The run of one rank."""
    return replace(resolve_run(load_environment, overrides=overrides), resume=resume)


def compare(on_ranks, *runs):
    on_ranks(len(runs), lambda ranks: check_run(ranks, runs[ranks.rank]))


def compare_data(on_ranks, *sources):
    on_ranks(len(sources), lambda ranks: check_data(ranks, {"train": sources[ranks.rank], "evaluation": None}))


def test_equal_ranks_agree(on_ranks):
    compare(on_ranks, facts(), facts(), facts())
    compare_data(on_ranks, rows("x", "y"), rows("x", "y"))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (facts("seed=7"), "config.seed: 0 on ranks 0, 2; 7 on rank 1"),
        (
            facts("trainer.algorithm.dual_clip.clip_low=0.3"),
            "loss.params.clip_low: 0.2 on ranks 0, 2; 0.3 on rank 1",
        ),
        (facts(resume=Path("x/step_1")), 'resume: null on ranks 0, 2; "x/step_1" on rank 1'),
    ],
)
def test_a_difference_is_named_with_its_values_and_ranks(change, line, on_ranks):
    with pytest.raises(SkyrlError, match="would not train the same") as error:
        compare(on_ranks, facts(), change, facts())
    assert f"  {line}\n" in str(error.value)


def test_other_rows_or_another_order_of_the_same_are_a_difference(on_ranks):
    with pytest.raises(SkyrlError, match=r"data\.train\.order"):
        compare_data(on_ranks, rows("x", "y"), rows("y", "x"))
    with pytest.raises(SkyrlError, match=r"data\.train\.rows: 2 on rank 0; 3 on rank 1"):
        compare_data(on_ranks, rows("x", "y"), rows("x", "y", "z"))


def test_another_version_of_a_package_is_a_difference(on_ranks, monkeypatch):
    versions = iter(["1.0", "2.0"])
    monkeypatch.setattr(fingerprint, "PACKAGES", ("torch",))
    monkeypatch.setattr(fingerprint, "installed_version", lambda _: next(versions))
    with pytest.raises(SkyrlError, match=r'packages\.torch: "\d.0" on rank 0; "\d.0" on rank 1'):
        compare(on_ranks, facts(), facts())


def test_many_ranks_and_many_differences_stay_readable(on_ranks):
    with pytest.raises(SkyrlError) as error:
        compare(on_ranks, *[facts(f"seed={rank % 2}") for rank in range(20)])
    assert "0 on ranks 0, 2, 4, 6, 8, 10, 12, 14 and 2 more; 1 on ranks 1, 3," in str(error.value)


DIFFERING = """\
import importlib
import os
import sys

from skyrl_train.entrypoints.main_base import main

rank = int(os.environ["RANK"])
if sys.argv[1] == "options":
    own = [f"trainer.optimizer.learning_rate={[1e-4, 3e-4][rank]}"]
else:
    importlib.import_module(f"loss_of_{rank}")
    own = ["trainer.algorithm.policy_loss_type=mine"]
main([*sys.argv[2:], *own])
"""

LOSS = """\
from skyrl_train.algorithms.policy_losses import register_policy_loss


@register_policy_loss("mine")
def mine(log_probs, old_log_probs, advantages, masks):
    return -({scale} * log_probs * advantages * masks).sum() / masks.sum()
"""


@pytest.mark.ranks
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("options", "  config.trainer.optimizer.learning_rate: 0.0001 on rank 0; 0.0003 on rank 1\n"),
        ("losses", "  loss.files_sha256: "),
    ],
)
def test_ranks_with_different_settings_do_not_train(what, message, tiny_run, tmp_path):
    script = tmp_path / "differing.py"
    script.write_text(DIFFERING)
    for rank, scale in enumerate((1.0, 2.0)):
        (tmp_path / f"loss_of_{rank}.py").write_text(LOSS.format(scale=scale))
    folder = tmp_path / "run"
    command = [*TORCHRUN, str(script), what, *tiny_run({}), f"run_folder={json.dumps(str(folder))}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode != 0
    assert done.stderr.count("error: the ranks of this run would not train the same") == 1
    assert message in done.stderr
    assert not folder.exists()
