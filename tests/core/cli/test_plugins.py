"""`skyrl plugins list`: every plugin of every group, without importing one."""

import json
import os
import subprocess
import sys

import pytest


@pytest.fixture
def foo(distributions):
    groups = {
        "skyrl.policy_losses": {"foo": "foo_plugins:Foo"},
        "skyrl.policy_loss_params": {"foo": "foo_plugins:Foo"},
        "skyrl.trackers": {"foo": "foo_plugins:Foo", "bad": "x"},
        "skyrl.plugins": {"watcher": "foo_plugins:Foo"},
        "skyrl.tracker": {"lost": "foo_plugins:Foo"},
    }
    distributions.add("foo-dist", groups, modules={"foo_plugins.py": "raise SystemExit('imported')"})
    return distributions


def rows_of(run_skyrl, *arguments):
    done = run_skyrl("plugins", "list", "--json", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    content = json.loads(done.stdout)
    assert content["schema_version"] == 1
    return content["plugins"]


def test_json_has_every_plugin_with_its_group(foo, run_skyrl):
    rows = {(row["group"], row["name"]): row for row in rows_of(run_skyrl) if row["distribution"] == "foo-dist"}
    assert rows["skyrl.policy_losses", "foo"] == {
        "group": "skyrl.policy_losses",
        "name": "foo",
        "value": "foo_plugins:Foo",
        "distribution": "foo-dist",
        "version": "1.0",
        "status": "ok",
        "reason": "",
        "summary": "",
        "origin": None,
    }
    assert {key: row["status"] for key, row in rows.items()} == {
        ("skyrl.policy_losses", "foo"): "ok",
        ("skyrl.trackers", "foo"): "ok",
        ("skyrl.trackers", "bad"): "broken",
        ("skyrl.plugins", "watcher"): "ok",
        ("skyrl.tracker", "lost"): "broken",
    }
    misspelled = rows["skyrl.tracker", "lost"]["reason"]
    assert misspelled == "unknown group 'skyrl.tracker'; did you mean 'skyrl.trackers'?"
    assert "module:Name" in rows["skyrl.trackers", "bad"]["reason"]


def test_the_plugins_of_the_core_have_rows_and_schemas_have_none(run_skyrl):
    named = {(row["group"], row["name"]) for row in rows_of(run_skyrl)}
    assert {
        ("skyrl.policy_losses", "gspo"),
        ("skyrl.advantage_estimators", "grpo"),
        ("skyrl.commands", "plugins"),
    } <= named
    assert not {group for group, _ in named if group.endswith("_params")}


def test_the_table_of_a_group_has_reasons_below_its_rows(foo, run_skyrl):
    lines = run_skyrl("plugins", "list").stdout.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("skyrl.trackers "))
    assert lines[start - 1] == ""
    assert lines[start].split() == ["skyrl.trackers", "VERSION", "DISTRIBUTION", "STATUS"]
    assert lines[start + 1].split() == ["bad", "1.0", "foo-dist", "broken"]
    assert lines[start + 2].strip() == "its entry point 'x' is not of the form module:Name"


def test_it_imports_no_plugin_no_torch_and_no_pydantic(foo):
    code = "import sys; from skyrl_core.cli.main import main; main(['plugins', 'list']); print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(foo.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    imported = set(done.stdout.splitlines()[-1].split())
    assert "skyrl_core.cli.plugins" in imported
    assert not {name.partition(".")[0] for name in imported} & {"torch", "pydantic", "foo_plugins", "skyrl_train"}
    assert not {name for name in imported if name.startswith(("skyrl_core.losses", "skyrl_core.advantages"))}


def test_a_policy_applies_to_every_group(foo, run_skyrl):
    rows = rows_of(run_skyrl, "--deny", "Foo_Dist")
    assert [row["name"] for row in rows if row["status"] == "denied"] == ["foo", "bad", "foo", "watcher"]
    assert run_skyrl("plugins", "list", "--allow", "fo-dist").returncode == 2


@pytest.mark.parametrize("arguments", [[], ["show"], ["list", "--nope"]])
def test_wrong_usage_exits_with_2(run_skyrl, arguments):
    done = run_skyrl("plugins", *arguments)
    assert done.returncode == 2
    assert "usage: skyrl plugins" in done.stderr
