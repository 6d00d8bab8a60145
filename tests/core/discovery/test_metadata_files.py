"""One broken distribution costs a row with a reason, whatever its files are; the others are listed as ever."""

import os
import shutil
import sys
import zipfile

import importlib_metadata
import pytest

from skyrl_core.discovery.installed import endless_files, installed_distributions, is_installed, unreadable_entry_points
from skyrl_core.discovery.metadata_files import MAX_BYTES, discovered, installed_version
from skyrl_core.discovery.origin import origin_of
from skyrl_core.registry import policy_losses

GROUP = {"skyrl.policy_losses": {"foo": "foo.loss:Foo"}}
FILES = ["entry_points.txt", "METADATA", "direct_url.json"]


def fifo(path):
    os.mkfifo(path)


def device(path):
    path.symlink_to("/dev/zero")


def folder(path):
    path.mkdir()


def huge(path):
    path.write_bytes(b"Name: foo-dist\nVersion: 1.0\n")
    os.truncate(path, 1 << 33)  # sparse: it takes no space


def unreadable(path):
    path.write_bytes(b"Name: foo-dist\n")
    path.chmod(0)


def loop(path):
    path.symlink_to(path)


def other_encoding(path):
    path.write_text("[skyrl.policy_losses]\nfoo = foo.loss:Foo\n", encoding="utf-16")


@pytest.fixture
def foo(distributions):
    """The dist-info folder of a distribution next to an intact one."""
    distributions.add("bar-dist", {"skyrl.policy_losses": {"bar": "json:loads"}}, modules={"bar/__init__.py": ""})
    return distributions.add("foo-dist", GROUP, modules={"foo/__init__.py": "", "foo/loss.py": ""})


@pytest.mark.parametrize("damage", [fifo, device, folder, huge, unreadable, loop, other_encoding])
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_neither_stops_nor_delays_anything_else(foo, file, damage):
    (foo / file).unlink(missing_ok=True)
    damage(foo / file)
    losses = {claim.name: claim for claim in policy_losses()}
    assert losses["bar"].status == "untyped"
    assert is_installed("foo-dist")
    assert is_installed("bar-dist")
    assert origin_of("foo-dist") is None
    assert installed_version("bar-dist") == "1.0"
    unreadable_entry_points()
    if damage in (fifo, device, folder) and file != "direct_url.json":
        [row] = [claim for claim in losses.values() if str(foo) in claim.reason]
        assert row.status == "broken"
        assert f"{file} is a" in row.reason
    assert [each.partition(",")[0] for each in endless_files()] == (
        [str(foo / file)] if damage in (fifo, device) else []
    )


def test_of_a_huge_description_only_the_headers_are_read(foo):
    with (foo / "METADATA").open("a") as stream:
        stream.write("x" * 2 * MAX_BYTES)
    [found] = [each for each in installed_distributions() if each.name == "foo-dist"]
    assert found.problem == ""


def test_entry_points_beyond_the_bound_are_a_broken_row(foo):
    text = "[console_scripts]\n" + f"{'a' * 40} = b:c\n" * (MAX_BYTES // 40)
    assert b"=" not in text[:MAX_BYTES].encode().splitlines()[-1]  # the bound cuts a line in two
    (foo / "entry_points.txt").write_text(text)
    [row] = [claim for claim in policy_losses() if claim.distribution == "foo-dist"]
    assert (row.status, "larger than 1 MiB" in row.reason) == ("broken", True)
    assert unreadable_entry_points() == []


class Broken:
    """An import finder that raises whatever it is asked for."""

    def __init__(self, error):
        self.error = error

    def find_spec(self, name, path=None, target=None):
        if name == "foo":
            raise self.error

    def find_distributions(self, context=None):
        raise self.error


@pytest.mark.parametrize("error", [RuntimeError("lost"), SystemExit(0), MemoryError(), KeyError("x")])
@pytest.mark.parametrize("first", [True, False])
def test_a_raising_finder_is_a_row_and_hides_nothing(foo, monkeypatch, error, first):
    monkeypatch.setattr(sys, "meta_path", [Broken(error), *sys.meta_path] if first else [*sys.meta_path, Broken(error)])
    shutil.rmtree(foo.parent / "foo")  # so that the last finder is asked, too
    os.utime(foo.parent)  # the scan is repeated
    losses = {claim.name: claim for claim in policy_losses()}
    assert f"{__name__}.Broken fails: {type(error).__name__}" in losses["?"].reason
    assert losses["bar"].status == "untyped"
    assert f"cannot be looked up: {type(error).__name__}" in losses["foo"].reason
    assert is_installed("bar-dist")
    assert installed_version("skyrl-core")


def test_a_distribution_whose_class_raises_everywhere_is_passed_over(foo, monkeypatch):
    class Hostile(importlib_metadata.Distribution):
        def read_text(self, filename):
            sys.exit(0)

        def locate_file(self, path):
            raise RuntimeError

    class Finder:
        def find_distributions(self, context=None):
            return iter([Hostile()])

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder()])
    os.utime(foo.parent)
    assert {"foo", "bar"} <= {claim.name for claim in policy_losses()}


def test_a_path_hook_that_raises_breaks_only_what_needs_it(foo, monkeypatch, tmp_path):
    def hook(path):
        if path == str(tmp_path / "odd"):
            raise RuntimeError("hook")
        raise ImportError

    monkeypatch.setattr(sys, "path_hooks", [hook, *sys.path_hooks])
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "odd")])
    shutil.rmtree(foo.parent / "foo")
    losses = {claim.name: claim for claim in policy_losses()}
    assert "cannot be looked up: RuntimeError: hook" in losses["foo"].reason
    assert losses["bar"].status == "untyped"


def test_entries_of_the_path_that_are_no_text_are_ignored(foo, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, None, 5])
    assert {"foo", "bar"} <= {claim.name for claim in policy_losses()}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[a]\nb = c:d\n",
        "[a]\nb\n",
        "b\n[a]\nc = d:e\n",
        "[a]\n# comment\n\n; not a comment\n",
        "[a]\n[b = c\n",
        "[a]\nb = c\n[c]d = e\n",
        "\ufeff[a]\nb = c:d\n",
        "[a]\nb == c\n= d\n",
    ],
)
def test_python_can_read_entry_points_if_and_only_if_we_say_so(distributions, text):
    info = distributions.add("foo-dist", {})
    (info / "entry_points.txt").write_text(text)
    try:
        readable = importlib_metadata.distribution("foo-dist").entry_points is not None
    except (TypeError, ValueError):
        readable = False
    assert (str(info) not in unreadable_entry_points()) == readable


def test_metadata_in_a_zip_is_read_with_the_same_bound(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "packed.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("foo_dist-1.0.dist-info/entry_points.txt", "[skyrl.policy_losses]\nfoo = json:loads\n")
        archive.writestr("foo_dist-1.0.dist-info/METADATA", "Name: foo-dist\nVersion: 1.0\n\n" + "\0" * 50 * MAX_BYTES)
    monkeypatch.syspath_prepend(str(tmp_path / "packed.zip"))
    assert [each.version for each in installed_distributions() if each.name == "foo-dist"] == ["1.0"]
    assert any(getattr(each, "_path", None) is not None for each in discovered("foo-dist"))


def test_a_command_that_imports_libraries_names_the_file_on_which_they_would_hang(foo, run_skyrl):
    (foo / "entry_points.txt").unlink()
    fifo(foo / "entry_points.txt")
    done = run_skyrl("losses", "show", "bar")
    assert done.returncode == 5
    assert f"repair or delete {foo / 'entry_points.txt'}, which is a FIFO" in done.stderr
    assert "Traceback" not in done.stderr
