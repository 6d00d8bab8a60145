"""Reading metadata as text."""

import zipfile

import pytest

from skyrl_core.discovery.installed import (
    fold,
    installed_distributions,
    is_installed,
    unreadable_entry_points,
)


@pytest.mark.parametrize("name", ["Foo.Bar", "foo-bar", "FOO__bar", "foo.-_bar"])
def test_distribution_names_are_normalized_as_in_pep_503(name):
    assert fold(name) == "foo-bar"


def test_a_line_separator_of_unicode_does_not_end_a_header(distributions):
    distributions.add("foo-dist", {"skyrl.test_things": {"foo": "a:b"}}, summary="one\u2028Version: 2\x0ctwo")
    [found] = [each for each in installed_distributions() if each.name == "foo-dist"]
    assert (found.version, found.summary) == ("1.0", "oneVersion: 2two")


def test_a_damaged_zip_on_the_path_is_passed_over(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "damaged.zip", "w") as archive:
        archive.writestr("foo_dist-1.0.dist-info/entry_points.txt", "[skyrl.test_things]\nfoo = a:b\n")
    content = (tmp_path / "damaged.zip").read_bytes()
    (tmp_path / "damaged.zip").write_bytes(content.replace(b"foo = a:b", b"foo = a:c"))  # its checksum is wrong now
    monkeypatch.syspath_prepend(str(tmp_path / "damaged.zip"))
    assert not [each for each in installed_distributions() if each.folder.startswith(str(tmp_path))]


def test_the_folders_that_python_cannot_read_are_named(distributions):
    distributions.add("good-dist", {"other": {"foo": "a:b"}})
    info = distributions.add("foo-dist", {"other": {}})
    (info / "entry_points.txt").write_text("[other]\ngibberish\n")
    assert unreadable_entry_points() == [str(info)]


def test_headers_end_where_the_long_description_begins(distributions):
    distributions.add("foo-dist", {"skyrl.test_things": {"foo": "a:b"}}, requires=["a>1", "b; extra == 'x'"])
    [found] = [each for each in installed_distributions() if each.name == "foo-dist"]
    assert found.version == "1.0"
    assert found.requirements == ("a>1", "b; extra == 'x'")
    assert found.declarations == (("skyrl.test_things", "foo", "a:b"),)


def test_distributions_that_declare_nothing_of_ours_are_left_out(distributions):
    distributions.add("foo-dist", {"console_scripts": {"foo": "a:b"}})
    assert "foo-dist" not in {each.name for each in installed_distributions()}
    assert is_installed("Foo_Dist")
    assert not is_installed("no-such-distribution")
    assert not is_installed("")
