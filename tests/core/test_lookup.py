"""Paths that cannot be looked up are problems with a reason."""

import os

import pytest

from skyrl_core.errors import SkyrlError
from skyrl_core.lookup import checked_path, path_fault


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("~nosuchuser/x", "the home folder of ~nosuchuser is unknown; write the path without ~"),
        ("a\0b", "a path cannot contain these characters"),
        ("a\ud800b", "a path cannot contain these characters"),
        ("x" * 300, "cannot be looked up: file name too long"),
        ("x/" * 5000, "cannot be looked up: file name too long"),
        ("loop/x", "cannot be looked up: too many levels of symbolic links"),
    ],
)
def test_a_path_that_cannot_be_looked_up_has_a_reason(path, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    assert reason in path_fault(path)
    with pytest.raises(SkyrlError, match=reason.partition(":")[0]):
        checked_path(path)


@pytest.mark.parametrize("path", ["", ".", "missing", "missing/below", "file/below", "~", "/"])
def test_a_path_that_does_not_exist_is_no_fault(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert path_fault(path) is None
    assert str(checked_path("~/x")) == os.path.expanduser("~/x")


def test_a_current_folder_that_was_deleted_is_a_fault(tmp_path, monkeypatch):
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    assert path_fault("x") == "the current folder does not exist any more; change to another one"
