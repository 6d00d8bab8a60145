"""A folder is written completely or not at all, and existing files are never overwritten."""

import os
import resource
from contextlib import contextmanager

import pytest

from skyrl_core.errors import SkyrlError
from skyrl_core.scaffold import folder as folder_module
from skyrl_core.scaffold.folder import write_folder

FILES = {"a.txt": "one\n", "deep/er/b.txt": "zwei ü\n", "z.txt": "x" * 5000}


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def expected():
    return {name: text.encode() for name, text in FILES.items()}


@contextmanager
def almost_full():
    """Limit files to 1000 bytes, so that the last one fails half-way, as on a full disk.

    Keep the block short: the limit applies to pytest's report too.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_new_folder_has_the_files_and_nothing_else(tmp_path):
    write_folder(tmp_path / "new", FILES)
    assert contents(tmp_path / "new") == expected()
    assert os.listdir(tmp_path) == ["new"]


def test_its_permissions_are_the_default_ones(tmp_path):
    (tmp_path / "other").mkdir()
    write_folder(tmp_path / "new", FILES)
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_missing_parents_are_created(tmp_path):
    write_folder(tmp_path / "some" / "where" / "new", FILES)
    assert contents(tmp_path / "some/where/new") == expected()


def test_an_empty_folder_is_filled_and_stays_the_same_folder(tmp_path):
    target = tmp_path / "empty"
    target.mkdir()
    before = target.stat().st_ino
    write_folder(target, FILES)
    assert contents(target) == expected()
    assert sorted(os.listdir(target)) == ["a.txt", "deep", "z.txt"]
    assert target.stat().st_ino == before


def test_the_current_folder_can_be_filled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_folder(folder_module.Path("."), FILES)
    assert sorted(os.listdir()) == ["a.txt", "deep", "z.txt"]


@pytest.mark.parametrize("existing", ["a.txt", "notes", ".git"])
def test_a_folder_that_is_not_empty_is_rejected_and_unchanged(tmp_path, existing):
    (tmp_path / existing).write_text("mine")
    with pytest.raises(SkyrlError, match=rf"is not empty; it contains '{existing}'.*--folder"):
        write_folder(tmp_path, FILES)
    assert contents(tmp_path) == {existing: b"mine"}


@pytest.mark.parametrize("kind", ["file", "dangling link"])
def test_a_path_that_is_not_a_folder_is_rejected(tmp_path, kind):
    target = tmp_path / "there"
    if kind == "file":
        target.write_text("mine")
    else:
        target.symlink_to(tmp_path / "nowhere")
    with pytest.raises(SkyrlError, match="there exists and is not a folder") as caught:
        write_folder(target, FILES)
    assert caught.value.exit_code == 2
    assert os.listdir(tmp_path) == ["there"]


def test_a_full_disk_leaves_nothing_not_even_parents(tmp_path):
    with pytest.raises(SkyrlError, match=r"some/new: File too large; no partial files were left"), almost_full():
        write_folder(tmp_path / "some" / "new", FILES)
    assert os.listdir(tmp_path) == []


def test_a_full_disk_leaves_an_empty_folder_empty(tmp_path):
    with pytest.raises(SkyrlError, match="File too large"), almost_full():
        write_folder(tmp_path, FILES)
    assert os.listdir(tmp_path) == []


def test_a_folder_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SkyrlError, match=r"cannot write .*file/new: Not a directory"):
        write_folder(tmp_path / "file" / "new", FILES)
    assert contents(tmp_path) == {"file": b"mine"}


def test_a_name_that_is_too_long_leaves_no_parents(tmp_path):
    with pytest.raises(SkyrlError, match="File name too long"):
        write_folder(tmp_path / "some" / ("n" * 300), FILES)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(SkyrlError, match="Permission denied"):
        write_folder(tmp_path / "new", FILES)


@pytest.mark.parametrize(("exists", "reason"), [(False, "Directory not empty"), (True, "File exists")])
def test_files_that_another_process_writes_meanwhile_are_not_overwritten(tmp_path, monkeypatch, exists, reason):
    make_staging_folder = folder_module._make_staging_folder

    def slow(folder):
        staging = make_staging_folder(folder)
        folder.mkdir(exist_ok=True)
        (folder / "z.txt").write_text("mine")
        return staging

    if exists:
        (tmp_path / "new").mkdir()
    monkeypatch.setattr(folder_module, "_make_staging_folder", slow)
    with pytest.raises(SkyrlError, match=f"cannot write .*new: {reason}"):
        write_folder(tmp_path / "new", FILES)
    assert contents(tmp_path) == {"new/z.txt": b"mine"}
    assert os.listdir(tmp_path / "new") == ["z.txt"]


def test_an_interruption_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(folder_module, "_publish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_folder(tmp_path / "some" / "new", FILES)
    assert os.listdir(tmp_path) == []
