"""Options that are looked up: a path, a hub name or an address that cannot be one is a problem with its option."""

import pytest

from skyrl_core.errors import SkyrlError
from skyrl_train.config.load_config import resolve_run
from skyrl_train.config.lookups import is_hub_name, server_address_fault
from skyrl_train.environments.load_environment import load_environment

PATHS = ("model", "run_folder", "data.train", "data.evaluation", "environment.name")
BAD = ("~nosuchuser/x", r"a\0b", "x" * 300, "y/" * 3000)


@pytest.mark.parametrize("key", PATHS)
@pytest.mark.parametrize("path", BAD, ids=["user", "null byte", "name", "path"])
def test_a_path_that_cannot_be_looked_up_is_a_problem_of_its_option(key, path):
    ending = {"environment.name": ".py:reward", "data.train": ".jsonl", "data.evaluation": "*.jsonl"}.get(key, "")
    with pytest.raises(SkyrlError, match=f"command line  {key} = ") as caught:
        resolve_run(load_environment, overrides=[f'{key}="{path}{ending}"'])
    assert any(rule in str(caught.value) for rule in ("home folder", "cannot contain", "cannot be looked up"))


@pytest.mark.parametrize("given", [{"files": ["~nosuchuser/x"]}, {"resume": "a\0b"}, {"resume": "x" * 300}])
def test_so_is_a_file_or_a_run_of_the_command_line(given):
    with pytest.raises(SkyrlError, match=r"home folder|cannot contain|cannot be looked up"):
        resolve_run(load_environment, **given)


@pytest.mark.parametrize(
    "value", ["~nosuchuser/x", "a\0b", 10**5000, b"x", 7], ids=["user", "null", "digits", "bytes", "int"]
)
def test_a_run_folder_that_is_no_path_is_a_problem_also_of_a_resumed_run(tmp_path, value):
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(SkyrlError, match="run_folder = "):
        resolve_run(load_environment, settings={"command line": {"run_folder": value}}, resume=str(tmp_path))


@pytest.mark.parametrize(
    "url",
    [
        *("", "http://", "http:///", "a:80", "ftp://a", "http://a]b", "http://[::1", "http://a b:80", " http://a"),
        *("http://a:99999", "http://a:0", "http://a:-1", "http://a:b", "http://a/v1", "http://a?x", "http://a#x"),
        *("http://a..b", "http://" + "x" * 64, "http://" + "x." * 200, "http://a\0", "http://999.1.1.1", "http://%zz"),
    ],
)
def test_a_text_that_is_no_address_is_refused(url):
    assert server_address_fault(url).startswith("must be the address of a server without a path")


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000", "https://host", "http://[::1]:80/", "http://a_b.c.:65535"])
def test_an_address_is_accepted(url):
    assert server_address_fault(url) is None


@pytest.mark.parametrize(
    ("name", "valid"),
    [
        *(("tiny", True), ("Qwen/Qwen3-0.6B", True), ("a/b/c", False), ("a b", False), ("/a", False), ("a/", False)),
        *(("", False), ("x" * 96, True), ("x" * 97, False), ("é", False), ("a\n", False), (".a", False)),
    ],
)
def test_a_hub_name_is_a_name_or_owner_and_name(name, valid):
    assert is_hub_name(name) is valid
