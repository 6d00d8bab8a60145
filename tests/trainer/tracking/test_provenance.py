"""The provenance of a run."""

import importlib.metadata
import json
import platform
import subprocess

from skyrl_train.tracking.provenance import collect_provenance


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def test_versions_are_the_installed_ones(tmp_path):
    made_of = collect_provenance(["pluggy", "no-such-distribution"], folder=tmp_path)
    assert made_of["packages"]["torch"] == importlib.metadata.version("torch")
    assert made_of["packages"]["pluggy"] == importlib.metadata.version("pluggy")
    assert "no-such-distribution" not in made_of["packages"]
    assert made_of["python"] == platform.python_version()


def test_an_editable_install_is_recorded_with_its_folder():
    made_of = collect_provenance(["pluggy"])
    core = importlib.metadata.distribution("skyrl-core").read_text("direct_url.json")
    assert made_of["origins"]["skyrl-core"]["url"] == json.loads(core)["url"]
    assert "pluggy" not in made_of["origins"]


def test_the_git_state_is_the_commit_and_whether_files_were_changed(tmp_path):
    assert collect_provenance(folder=tmp_path)["git"] is None
    git(tmp_path, "init", "-q")
    assert collect_provenance(folder=tmp_path)["git"] is None
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-qm", "first")
    commit = git(tmp_path, "rev-parse", "HEAD").strip()
    (tmp_path / "untracked").write_text("")
    assert collect_provenance(folder=tmp_path)["git"] == {"commit": commit, "dirty": False}
    (tmp_path / "a").write_text("2")
    assert collect_provenance(folder=tmp_path)["git"] == {"commit": commit, "dirty": True}


def test_without_git_the_git_state_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert collect_provenance(folder=tmp_path)["git"] is None


def test_a_deleted_working_folder_is_not_an_error(tmp_path, monkeypatch):
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    found = collect_provenance()
    assert (found["working_folder"], found["git"]) == (None, None)
