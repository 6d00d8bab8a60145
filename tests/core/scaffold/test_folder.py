"""A folder is written whole or not at all, and nothing in it is ever overwritten."""

import os
import resource
from contextlib import contextmanager

import pytest

from skyrl_core.errors import SkyrlError
from skyrl_core.scaffold import folder as folder_module
from skyrl_core.scaffold.folder import write_folder

FILES = {"a.txt": "one\n", "deep/er/b.txt": "zwei ü\n", "z.txt": "x" * 5000}


def everything(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def expected():
    return {name: text.encode() for name, text in FILES.items()}


@contextmanager
def almost_full():
    """No file can grow beyond 1000 bytes: the last of the files fails half-way, like on a full disk.

    As short as can be: the limit holds for the report of the tests too.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_new_folder_has_the_files_and_nothing_else(tmp_path):
    write_folder(tmp_path / "new", FILES)
    assert everything(tmp_path / "new") == expected()
    assert os.listdir(tmp_path) == ["new"]


def test_its_permissions_are_those_of_any_new_folder(tmp_path):
    (tmp_path / "other").mkdir()
    write_folder(tmp_path / "new", FILES)
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_missing_parents_are_made(tmp_path):
    write_folder(tmp_path / "some" / "where" / "new", FILES)
    assert everything(tmp_path / "some/where/new") == expected()


def test_an_empty_folder_is_filled_and_stays_the_same_folder(tmp_path):
    target = tmp_path / "empty"
    target.mkdir()
    before = target.stat().st_ino
    write_folder(target, FILES)
    assert everything(target) == expected()
    assert sorted(os.listdir(target)) == ["a.txt", "deep", "z.txt"]
    assert target.stat().st_ino == before


def test_the_current_folder_can_be_filled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_folder(folder_module.Path("."), FILES)
    assert sorted(os.listdir()) == ["a.txt", "deep", "z.txt"]


@pytest.mark.parametrize("there", ["a.txt", "notes", ".git"])
def test_a_folder_with_anything_in_it_is_refused_and_stays_as_it_is(tmp_path, there):
    (tmp_path / there).write_text("mine")
    with pytest.raises(SkyrlError, match=rf"is not empty, it has '{there}' in it: nothing was written.*--folder"):
        write_folder(tmp_path, FILES)
    assert everything(tmp_path) == {there: b"mine"}


@pytest.mark.parametrize("kind", ["file", "dangling link"])
def test_what_is_no_folder_is_refused(tmp_path, kind):
    target = tmp_path / "there"
    if kind == "file":
        target.write_text("mine")
    else:
        target.symlink_to(tmp_path / "nowhere")
    with pytest.raises(SkyrlError, match="there exists and is no folder: nothing was written") as caught:
        write_folder(target, FILES)
    assert caught.value.exit_code == 2
    assert os.listdir(tmp_path) == ["there"]


def test_a_disk_that_fills_up_leaves_nothing_not_even_parents(tmp_path):
    with pytest.raises(SkyrlError, match=r"some/new: File too large\. Nothing half-written is left"), almost_full():
        write_folder(tmp_path / "some" / "new", FILES)
    assert os.listdir(tmp_path) == []


def test_a_disk_that_fills_up_leaves_an_empty_folder_empty(tmp_path):
    with pytest.raises(SkyrlError, match="File too large"), almost_full():
        write_folder(tmp_path, FILES)
    assert os.listdir(tmp_path) == []


def test_a_place_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SkyrlError, match=r"cannot write .*file/new: Not a directory"):
        write_folder(tmp_path / "file" / "new", FILES)
    assert everything(tmp_path) == {"file": b"mine"}


def test_a_name_that_the_disk_cannot_hold_leaves_no_parents(tmp_path):
    with pytest.raises(SkyrlError, match="File name too long"):
        write_folder(tmp_path / "some" / ("n" * 300), FILES)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(SkyrlError, match="Permission denied"):
        write_folder(tmp_path / "new", FILES)


@pytest.mark.parametrize(("exists", "reason"), [(False, "Directory not empty"), (True, "File exists")])
def test_somebody_who_is_faster_is_not_overwritten(tmp_path, monkeypatch, exists, reason):
    place_aside = folder_module._place_aside

    def slow(folder):
        aside = place_aside(folder)
        folder.mkdir(exist_ok=True)
        (folder / "z.txt").write_text("mine")
        return aside

    if exists:
        (tmp_path / "new").mkdir()
    monkeypatch.setattr(folder_module, "_place_aside", slow)
    with pytest.raises(SkyrlError, match=f"cannot write .*new: {reason}"):
        write_folder(tmp_path / "new", FILES)
    assert everything(tmp_path) == {"new/z.txt": b"mine"}
    assert os.listdir(tmp_path / "new") == ["z.txt"]


def test_an_interruption_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(folder_module, "_publish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_folder(tmp_path / "some" / "new", FILES)
    assert os.listdir(tmp_path) == []
