"""`skyrl losses new`: its output, its files and its exit codes."""

import json
import re
import shlex

import pytest


def files_below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_it_writes_a_package_and_prints_the_tree_and_the_next_commands(run_skyrl, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run_skyrl("losses", "new", "SoftClip")
    assert (done.returncode, done.stderr) == (0, "")
    tree, _, following = done.stdout.partition("\n\n")
    first, *rest = tree.splitlines()
    assert first == "skyrl-loss-softclip/"
    names = {line.split()[0] for line in rest}
    assert {path.rpartition("/")[2] for path in files_below(tmp_path / "skyrl-loss-softclip")} <= names
    assert re.search(r"^    loss\.py +SoftClipLoss: put your equation here$", tree, flags=re.MULTILINE)
    assert following.splitlines() == [
        "next:",
        "  python -m pip install -e 'skyrl-loss-softclip[test,train]'",
        "  skyrl losses check soft_clip",
        "  skyrl train --loss soft_clip",
        "after each change:",
        "  python -m pytest skyrl-loss-softclip",
    ]


def test_json_has_names_files_and_commands(run_skyrl, tmp_path):
    target = tmp_path / "my loss"
    done = run_skyrl("losses", "new", "soft-clip", "--folder", str(target), "--form", "scalar", "--json")
    content = json.loads(done.stdout)
    assert content["files"] == files_below(target)
    assert shlex.split(content["next"][0])[-1] == f"{target}[test,train]"
    assert shlex.split(content["tests"]) == ["python", "-m", "pytest", str(target)]
    del content["files"], content["next"], content["tests"]
    assert content == {
        "schema_version": 1,
        "folder": str(target),
        "form": "scalar",
        "loss": "soft_clip",
        "distribution": "skyrl-loss-softclip",
        "module": "skyrl_loss_softclip",
        "loss_class": "SoftClipLoss",
        "params_class": "SoftClipParams",
    }


@pytest.mark.parametrize(("form", "method"), [("token", "token_losses"), ("scalar", "compute_loss")])
def test_the_form_decides_what_the_loss_returns(run_skyrl, tmp_path, form, method):
    run_skyrl("losses", "new", "soft", "--form", form, "--folder", str(tmp_path / "new"))
    assert re.findall(r"^    def (\w+)", (tmp_path / "new/src/skyrl_loss_soft/loss.py").read_text(), re.MULTILINE) == [
        method
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dual_clip"], "error: a new loss cannot be named 'dual_clip': policy loss 'dual_clip' (skyrl-core "),
        (["class"], "error: a new loss cannot be named 'class': class is a Python keyword; 'class_2' is free"),
        (["2clip"], "error: a new loss cannot be named '2clip': use words of letters and digits"),
        (["soft", "--folder", "file"], "file exists and is not a folder"),
        (["soft", "--folder", "."], "is not empty; it contains 'file'"),
        (["soft", "--folder", "file/below"], "Not a directory; no partial files were left"),
        (["soft", "--form", "vector"], "usage: skyrl losses new"),
        ([], "usage: skyrl losses new"),
    ],
)
def test_an_invalid_request_exits_with_2_and_changes_nothing(run_skyrl, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    done = run_skyrl("losses", "new", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert files_below(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


def test_running_it_twice_fails_and_keeps_the_existing_files(run_skyrl, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_skyrl("losses", "new", "soft")
    loss = tmp_path / "skyrl-loss-soft/src/skyrl_loss_soft/loss.py"
    loss.write_text("my work of an afternoon")
    assert run_skyrl("losses", "new", "soft").returncode == 2
    assert loss.read_text() == "my work of an afternoon"


def test_it_imports_neither_torch_nor_pydantic(run_skyrl, tmp_path):
    site = tmp_path / "site"
    for name in ("torch", "pydantic"):
        (site / name).mkdir(parents=True)
        (site / name / "__init__.py").write_text("raise AssertionError(__name__)")
    assert run_skyrl("losses", "new", "soft", "--folder", str(tmp_path / "new")).returncode == 0
    assert run_skyrl("losses", "show", "standard").returncode != 0  # proves that importing them would fail
