"""A run folder that some rank cannot see is detected at the start."""

import subprocess
import sys
from pathlib import Path

import pytest

from skyrl_core.errors import SkyrlError
from skyrl_train.ranks import same_folder as shared_folder
from skyrl_train.ranks.same_folder import check_same_folder

TORCHRUN = [str(Path(sys.executable).parent / "torchrun"), "--nproc-per-node", "2"]


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(shared_folder, "APPEARING", 0.5)


def test_a_shared_folder_is_left_unchanged(on_ranks, tmp_path):
    on_ranks(3, lambda ranks: check_same_folder(tmp_path, ranks))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("exists", "what"), [(True, "is another folder"), (False, "does not exist")])
def test_a_rank_that_sees_another_folder_or_none_is_named(exists, what, on_ranks, tmp_path):
    folders = [tmp_path / "a", tmp_path / "b", tmp_path / "a"]
    for folder in folders if exists else folders[:1]:
        folder.mkdir(exist_ok=True)
    with pytest.raises(SkyrlError, match="set run_folder to a folder on a file system") as error:
        on_ranks(3, lambda ranks: check_same_folder(folders[ranks.rank], ranks))
    assert str(error.value).count("  rank ") == 1
    assert f"{tmp_path}/b {what}" in str(error.value)


def test_one_process_writes_nothing(one_rank, tmp_path):
    check_same_folder(tmp_path / "nowhere", one_rank)


PLACES = """\
import os
from skyrl_train.entrypoints.main_base import main

os.makedirs(os.environ["RANK"], exist_ok=True)
os.chdir(os.environ["RANK"])  # as on machines that share no file system
main()
"""


@pytest.mark.ranks
def test_ranks_without_a_common_folder_end_before_the_model_is_loaded(tiny_run, tmp_path):
    script = tmp_path / "places.py"
    script.write_text(PLACES)
    command = [*TORCHRUN, str(script), *tiny_run({}), "run_folder=run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode != 0
    assert done.stderr.count("error: not every rank can use the run folder") == 1
    assert f"{tmp_path}/1/run does not exist" in done.stderr
    assert '"outcome": "failed"' in (tmp_path / "0" / "run" / "run.json").read_text()
