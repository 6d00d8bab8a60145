"""Where distributions were installed from: direct_url.json as pip writes it, and damaged."""

import json

import pytest

from skyrl_core.discovery.origin import Origin, origin_of

COMMIT = "0f3c1d5b6a7e8f90123456789abcdef012345678"


@pytest.fixture
def foo(distributions):
    """The dist-info folder of an installed distribution."""
    return distributions.add("foo-dist", {"skyrl.policy_losses": {"foo": "foo:Foo"}})


@pytest.mark.parametrize(
    ("direct_url", "origin", "text"),
    [
        (
            {"url": "file:///src/foo", "dir_info": {"editable": True}},
            Origin("file:///src/foo", editable=True, vcs="", commit=""),
            "file:///src/foo",
        ),
        (
            {"url": "file:///src/foo", "dir_info": {}},
            Origin("file:///src/foo", editable=False, vcs="", commit=""),
            "file:///src/foo",
        ),
        (
            {
                "url": "https://example.org/foo.git",
                "vcs_info": {"vcs": "git", "requested_revision": "main", "commit_id": COMMIT},
            },
            Origin("https://example.org/foo.git", editable=False, vcs="git", commit=COMMIT),
            f"git+https://example.org/foo.git@{COMMIT}",
        ),
        (
            {"url": "https://example.org/foo.whl", "archive_info": {"hashes": {"sha256": "00"}}},
            Origin("https://example.org/foo.whl", editable=False, vcs="", commit=""),
            "https://example.org/foo.whl",
        ),
    ],
)
def test_the_record_of_pip_is_read(foo, direct_url, origin, text):
    (foo / "direct_url.json").write_text(json.dumps(direct_url))
    assert origin_of("Foo.Dist") == origin
    assert str(origin_of("foo-dist")) == text


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "7",
        '{"url": 7}',
        '{"url": null}',
        '{"dir_info": {}}',
        '{"url": "x", "vcs_info": {"vcs": "git"}}',
        "[" * 100_000,
        "9" * 5000,
    ],
)
def test_a_damaged_record_has_no_origin(foo, content):
    (foo / "direct_url.json").write_text(content)
    assert origin_of("foo-dist") is None


def test_a_record_that_is_not_utf8_has_no_origin(foo):
    (foo / "direct_url.json").write_bytes(b'{"url": "caf\xe9"}')
    assert origin_of("foo-dist") is None


def test_what_it_shows_is_short_and_printable(foo):
    (foo / "direct_url.json").write_text(json.dumps({"url": "\x1b[2Jfile:///" + "x" * 5000}))
    found = origin_of("foo-dist")
    assert found is not None
    assert found.url.startswith("file:///")
    assert len(found.url) == 200


def test_a_package_from_an_index_or_none_at_all_has_no_origin(foo):
    assert origin_of("foo-dist") is None
    assert origin_of("no-such-distribution") is None
    assert origin_of("") is None
