"""Atomic writes: a file is complete or absent."""

import errno
import os
import resource

import pytest

from skyrl_train.tracking.atomic_file import RunFolderError, atomic_write, write_bytes


def test_content_is_replaced(tmp_path):
    write_bytes(tmp_path / "a", b"one")
    write_bytes(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["a"]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    write_bytes(tmp_path / "a", b"old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunFolderError, match=rf"cannot write {tmp_path}/a: No space left on device\. Make room"):
        write_bytes(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_write_that_fails_halfway_leaves_the_old_file(tmp_path):
    write_bytes(tmp_path / "a", b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(RunFolderError, match="File too large"):
            write_bytes(tmp_path / "a", b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_the_error_names_a_file_whose_folder_becomes_read_only_before_the_rename(tmp_path, monkeypatch):
    def read_only(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "replace", read_only)
    monkeypatch.setattr(os, "unlink", read_only)
    with pytest.raises(RunFolderError, match=rf"cannot write {tmp_path}/a: Read-only file system"):
        write_bytes(tmp_path / "a", b"new")


def test_an_error_of_the_caller_leaves_no_file(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "a") as file:  # noqa: PT012 - the block is the case
        file.write_bytes(b"half")
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []
