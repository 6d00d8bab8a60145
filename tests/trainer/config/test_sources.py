"""Files and overrides: merging, origins, unreadable files."""

import pytest

from skyrl_core.errors import InvalidParamsError, SkyrlError
from skyrl_train.config.sources import read_sources


def write(folder, name, text):
    path = folder / name
    path.write_text(text)
    return path


def test_later_files_override_earlier_ones_key_by_key_and_overrides_come_last(tmp_path):
    first = write(tmp_path, "a.yaml", "x:\n  p: 1\n  q: 2\nz: 5\n")
    second = write(tmp_path, "b.yaml", "\nx:\n  q: 3\n")
    sources = read_sources([first, second], ["x.p=7", "x.p=8", "y.deep.er=1e-6"])
    assert sources.values == {"x": {"p": 8, "q": 3}, "z": 5, "y": {"deep": {"er": 1e-6}}}
    assert sources.origin(("x", "q")) == f"{second}:3"
    assert sources.origin(("z",)) == f"{first}:4"
    assert sources.origin(("x", "p")) == "command line"
    assert sources.origin(("y", "deep", "er")) == "command line"
    assert sources.origin(("nowhere",)) == "default"


def test_an_override_replaces_a_section_completely(tmp_path):
    file = write(tmp_path, "a.yaml", "x:\n  y: {a: 1, b: 2}\n")
    sources = read_sources([file], ["x.y={c: 3}"])
    assert sources.values == {"x": {"y": {"c": 3}}}
    assert sources.origin(("x", "y", "a")) == "command line"


def test_a_value_inside_a_replaced_section_has_the_origin_of_the_section(tmp_path):
    file = write(tmp_path, "a.yaml", "x:\n  y: 1\n")
    assert read_sources([file], ["x=5"]).origin(("x", "y")) == "command line"


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("k=1", 1),
        ("+k=1.5", 1.5),
        ("++k=x", "x"),
        ("k=null", None),
        ("k='1'", "1"),
        ('k="a b"', "a b"),
        ("k=a=b", "a=b"),
        ("k=[1, 2]", [1, 2]),
        ("k={a: 1}", {"a": 1}),
        ("k=-1e-3", -1e-3),
        ("k=''", ""),
        ("k=org/model", "org/model"),
        ("k=name:task", "name:task"),
    ],
)
def test_override_values_are_yaml(override, value):
    assert read_sources([], [override]).values == {"k": value}


@pytest.mark.parametrize(
    ("override", "rule"),
    [
        ("k", "not an override; write `section.option=value`"),
        ("=1", "not an override"),
        ("a..b=1", "not an override"),
        ("k=", "no value after `=`"),
        ("~k", "cannot be removed"),
        ("k=[1", "not valid YAML"),
        ("my.yaml", "--config my.yaml"),
    ],
)
def test_a_malformed_override_is_a_problem_and_changes_nothing(override, rule):
    sources = read_sources([], [override, "other=1"])
    assert sources.values == {"other": 1}
    assert len(sources.problems) == 1
    assert rule in str(sources.problems[0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"# only a comment\n", "the file is empty"),
        (b"- a\n- b\n", "the top level must be options (`name: value`), not a list"),
        (b"word\n", "not a single value"),
        (b"a: 1\nb: \xff\n", ":2: not UTF-8 text (byte 0xff)"),
    ],
)
def test_files_without_options_are_rejected(tmp_path, content, message):
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    with pytest.raises(InvalidParamsError) as caught:
        read_sources([path], [])
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_byte_order_mark_is_ignored(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\xef\xbb\xbfmodel: tiny\n")
    assert read_sources([path], []).values == {"model": "tiny"}


def test_a_missing_file_is_an_error_that_suggests_the_nearest(tmp_path):
    write(tmp_path, "quickstart.yaml", "model: tiny\n")
    with pytest.raises(SkyrlError, match=r"no such file; did you mean .*quickstart\.yaml\?") as caught:
        read_sources([tmp_path / "quikstart.yaml"], [])
    assert caught.value.exit_code == 2


def test_a_folder_is_an_error(tmp_path):
    with pytest.raises(SkyrlError, match="this is a folder"):
        read_sources([tmp_path], [])


def test_a_huge_file_is_rejected(tmp_path):
    path = tmp_path / "huge.yaml"
    path.write_bytes(b"#" * 1_000_001)
    with pytest.raises(InvalidParamsError, match="more than 1 MB"):
        read_sources([path], [])
