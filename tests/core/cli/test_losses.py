"""`skyrl losses`: its output, its imports and its exit codes."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version

import pytest
import yaml

LOSSES, PARAMS = "skyrl.policy_losses", "skyrl.policy_loss_params"

# Blocked modules can still be found, so that no plugin is reported as broken, but importing one raises.
BLOCKED_PROCESS = """
import sys
from importlib.machinery import PathFinder

BLOCKED = {blocked!r}

class Refusing:
    def __init__(self, name): self.name = name
    def create_module(self, spec): return None
    def exec_module(self, module): raise AssertionError(f"{{self.name}} was imported")

class Blocker:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if not any(name == blocked or name.startswith(blocked + ".") for blocked in BLOCKED):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None:
            spec.loader = Refusing(name)
        return spec

sys.meta_path.insert(0, Blocker)
from skyrl_core.cli.main import main
code = main({arguments!r})
imported = [name for name in sys.modules if name in BLOCKED]
assert not imported, imported
sys.exit(code)
"""

HEAVY = ["torch", "numpy", "pydantic", "pydantic_core", "rich", "typer", "click", "yaml", "transformers", "pluggy"]
HEAVY += ["packaging.requirements", "packaging.utils"]
PLUGINS = ["foo_loss", "skyrl_loss_entropyreg", "skyrl_loss_clippedpg", "skyrl_train"]
CONTRACT = [
    "skyrl_core.contract.policy_loss",
    "skyrl_core.parameters.loss_params",
    "skyrl_core.losses",
    "skyrl_core.conformance",
]

SCHEMA = """
from typing import Literal
from pydantic import Field
from skyrl_core.parameters.loss_params import LossParams

class FooParams(LossParams):
    coef: float = Field(default=1e-6, ge=0, lt=1, description="How much | of it,\\n  in two lines.")
    mode: Literal["soft", "hard"] = "soft"
    limit: int | None = Field(default=None, gt=0)
    needed: float
    made: list[int] = Field(default_factory=list)
"""

LOSS = '''"""Penalises foo."""
from foo_loss.params import FooParams
from skyrl_core import PolicyLoss, TokenLosses

class FooLoss(PolicyLoss):
    name = "foo"
    Params = FooParams
    api_version = 1
    semantics_version = 3
    reference = "A paper, eq. 1"
    def token_losses(self, batch):
        return TokenLosses(values=-batch.log_probs)
'''


@pytest.fixture
def foo(distributions):
    distributions.add(
        "foo-dist",
        {LOSSES: {"foo": "foo_loss.loss:FooLoss"}, PARAMS: {"foo": "foo_loss.params:FooParams"}},
        version="2.1",
        modules={"foo_loss/__init__.py": "", "foo_loss/loss.py": LOSS, "foo_loss/params.py": SCHEMA},
    )
    return distributions


def run_blocked(distributions, blocked, *arguments):
    code = BLOCKED_PROCESS.format(blocked=blocked, arguments=list(arguments))
    environment = {**os.environ, "PYTHONPATH": str(distributions.path)}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


class TestList:
    @pytest.mark.parametrize("option", [[], ["--json"], ["--long"], ["--deny", "foo-dist"]])
    def test_it_imports_no_plugin_and_nothing_outside_the_standard_library(self, foo, option):
        done = run_blocked(foo, HEAVY + PLUGINS + CONTRACT, "losses", "list", *option)
        assert (done.returncode, done.stderr) == (0, "")
        assert "foo_loss" in done.stdout or "foo-dist" in done.stdout
        assert "broken" not in done.stdout

    def test_a_blocked_import_fails(self, foo):
        done = run_blocked(foo, ["foo_loss"], "losses", "show", "foo")
        assert done.returncode == 5
        assert "foo_loss was imported" in done.stderr

    def test_it_has_a_row_for_every_loss_of_the_core(self, run_skyrl):
        lines = run_skyrl("losses", "list").stdout.splitlines()
        start = lines.index(next(line for line in lines if line.split() == ["BUILT", "IN", "SUMMARY"]))
        names = [line.split()[0] for line in lines[start + 1 :]]
        assert names == sorted(names)
        assert {"standard", "dual_clip", "cispo", "gspo"} <= set(names)

    def test_it_shows_distribution_version_and_summary(self, foo, run_skyrl):
        output = run_skyrl("losses", "list").stdout
        [line] = [line for line in output.splitlines() if line.startswith("foo ")]
        assert line.split(maxsplit=3) == ["foo", "foo-dist", "2.1", "Penalises foo."]
        assert "STATUS" not in output
        [line] = [line for line in run_skyrl("losses", "list", "--long").stdout.splitlines() if line.startswith("foo ")]
        assert line.split() == ["foo", "2.1", "foo-dist", "ok"]

    def test_it_has_one_line_for_each_loss_at_80_columns(self, foo, run_skyrl):
        lines = run_skyrl("losses", "list", COLUMNS="80").stdout.splitlines()
        count = len(json.loads(run_skyrl("losses", "list", "--json").stdout)["losses"])
        assert len(lines) == count + 3  # two headers and the blank line between the groups
        assert max(map(len, lines)) <= 80

    def test_the_reason_is_below_the_row_of_a_broken_loss(self, foo, run_skyrl):
        foo.add("bar-dist", {LOSSES: {"bar": "no_such_package:Bar", "foo": "json:loads", "baz": "json:loads"}})
        done = run_skyrl("losses", "list")
        assert done.returncode == 0
        lines = [line for line in done.stdout.splitlines() if line]
        below = {line.split()[0]: lines[index + 1].strip() for index, line in enumerate(lines[:-1]) if line[0] != " "}
        status = {line.split()[0]: line.split()[3] for line in lines if line.startswith("ba")}
        assert status == {"bar": "broken", "baz": "untyped"}
        assert below["bar"].startswith("package 'no_such_package' cannot be found")
        assert below["baz"].startswith("no schema in skyrl.policy_loss_params")
        assert below["foo"].startswith("bar-dist 1.0 claims it too; use 'foo-dist:foo'")

    @pytest.mark.parametrize("columns", [60, 80, 120])
    def test_no_line_is_wider_than_the_terminal(self, foo, run_skyrl, columns):
        output = run_skyrl("losses", "list", COLUMNS=str(columns)).stdout
        assert max(map(len, output.splitlines())) <= columns
        assert "Penalises foo." in output

    def test_json_has_every_field_and_a_schema_version(self, foo, run_skyrl):
        content = json.loads(run_skyrl("losses", "list", "--json").stdout)
        assert content["schema_version"] == 1
        [row] = [row for row in content["losses"] if row["name"] == "foo"]
        assert row == {
            "name": "foo",
            "value": "foo_loss.loss:FooLoss",
            "distribution": "foo-dist",
            "version": "2.1",
            "status": "ok",
            "reason": "",
            "summary": "Penalises foo.",
            "origin": None,
        }

    def test_allow_and_deny_show_what_a_policy_would_do(self, foo, run_skyrl):
        content = json.loads(run_skyrl("losses", "list", "--json", "--allow", "Foo.Dist").stdout)
        assert {row["distribution"]: row["status"] for row in content["losses"]}["skyrl-core"] == "denied"
        assert [row["status"] for row in content["losses"] if row["name"] == "foo"] == ["ok"]
        assert run_skyrl("losses", "list", "--allow", "fo-dist").returncode == 2


class TestShowAndSchema:
    @pytest.mark.parametrize("command", [["show"], ["show", "--json"], ["schema"], ["schema", "--format", "yaml"]])
    def test_they_import_no_torch_and_no_loss_that_declares_a_schema(self, foo, command):
        blocked = ["torch", "numpy", "foo_loss.loss", "skyrl_core.contract.policy_loss"]
        done = run_blocked(foo, blocked, "losses", *command, "foo")
        assert (done.returncode, done.stderr) == (0, "")

    def test_show_has_the_folder_that_a_loss_was_installed_from(self, foo, run_skyrl):
        record = {"url": "file:///src/foo", "dir_info": {"editable": True}}
        (foo.path / "foo_dist-2.1.dist-info" / "direct_url.json").write_text(json.dumps(record))
        assert "file:///src/foo (editable)" in run_skyrl("losses", "show", "foo").stdout
        shown = json.loads(run_skyrl("losses", "show", "foo", "--json").stdout)
        assert shown["origin"] == {"url": "file:///src/foo", "editable": True, "vcs": "", "commit": ""}

    def test_show_has_the_facts_and_the_parameters(self, foo, run_skyrl):
        output = run_skyrl("losses", "show", "foo").stdout
        for fact in (
            "Penalises foo.",
            "foo-dist 2.1",
            "foo_loss.loss:FooLoss",
            "A paper, eq. 1",
            "semantics version  3",
        ):
            assert fact in output
        rows = {line.split()[0]: line for line in output.splitlines() if line and line[0] != " "}
        assert rows["coef"].split()[:2] == ["coef", "1.0e-06"]
        assert ">= 0, < 1" in rows["coef"]
        assert '"soft" or "hard"' in rows["mode"]
        assert rows["limit"].split()[:5] == ["limit", "null", "integer", "or", "null"]
        assert "required" in rows["needed"]

    def test_a_long_default_goes_below_its_row(self, run_skyrl):
        lines = run_skyrl("losses", "show", "sum").stdout.splitlines()
        row = next(index for index, line in enumerate(lines) if line.startswith("terms "))
        assert "see below" in lines[row]
        assert lines[row + 1].startswith('    default: [{"loss": "skyrl-core:dual_clip"')

    def test_show_in_json(self, foo, run_skyrl):
        content = json.loads(run_skyrl("losses", "show", "foo", "--json").stdout)
        assert (content["schema_version"], content["semantics_version"], content["status"]) == (1, 3, "ok")
        assert content["params"]["required"] == ["needed"]
        assert content["file"] == str(foo.path / "foo_loss" / "loss.py")

    def test_an_untyped_loss_is_imported_for_its_schema(self, foo, run_skyrl):
        source = "from skyrl_core import PolicyLoss\nclass BarLoss(PolicyLoss):\n    def compute_loss(self): ...\n"
        foo.add("bar-dist", {LOSSES: {"bar": "bar_loss:BarLoss"}}, modules={"bar_loss.py": source})
        assert "It accepts any parameters, unchecked." in run_skyrl("losses", "show", "bar").stdout

    def test_schema_is_the_json_schema(self, foo, run_skyrl):
        schema = json.loads(run_skyrl("losses", "schema", "foo").stdout)
        assert schema["properties"]["coef"]["exclusiveMaximum"] == 1
        assert schema["additionalProperties"] is False

    def test_schema_as_yaml_is_a_config_with_the_defaults(self, foo, run_skyrl):
        output = run_skyrl("losses", "schema", "foo", "--format", "yaml").stdout
        algorithm = yaml.safe_load(output)["trainer"]["algorithm"]
        assert algorithm == {"policy_loss_type": "foo", "foo": {"coef": 1e-6, "mode": "soft", "limit": None}}
        assert "# needed:  required" in output
        assert "# How much | of it, in two lines. (number, >= 0, < 1)" in output

    def test_schema_as_yaml_of_a_loss_without_parameters_is_valid(self, run_skyrl):
        output = run_skyrl("losses", "schema", "standard", "--format", "yaml").stdout
        assert yaml.safe_load(output) == {"trainer": {"algorithm": {"policy_loss_type": "standard", "standard": {}}}}

    def test_schema_as_markdown_is_a_table(self, foo, run_skyrl):
        lines = run_skyrl("losses", "schema", "foo", "--format", "md").stdout.splitlines()
        assert lines[0] == "| parameter | type | range | default | description |"
        assert lines[2] == "| `coef` | number | >= 0, < 1 | `1.0e-06` | How much \\| of it, in two lines. |"

    @pytest.mark.parametrize("command", ["show", "schema", "check"])
    def test_exit_codes(self, foo, run_skyrl, command):
        foo.add("bar-dist", {LOSSES: {"bar": "no_such_package:Bar", "foo": "json:loads"}})
        codes = {name: run_skyrl("losses", command, name).returncode for name in ("fop", "foo", "bar")}
        assert codes == {"fop": 2, "foo": 3, "bar": 5}


class TestCheck:
    def test_a_loss_that_keeps_the_contract_passes(self, run_skyrl):
        done = run_skyrl("losses", "check", "standard")
        assert done.returncode == 0, done.stderr
        assert f"standard (skyrl-core {version('skyrl-core')}) keeps all" in done.stdout
        assert "FAIL" not in done.stdout

    def test_a_loss_that_breaks_it_exits_with_6_and_prints_what_to_fix(self, distributions, run_skyrl):
        source = LOSS.replace("from foo_loss.params import FooParams\n", "").replace("    Params = FooParams\n", "")
        source = source.replace("-batch.log_probs", "-batch.log_probs * float('nan')")
        distributions.add("foo-dist", {LOSSES: {"foo": "foo_nan:FooLoss"}}, modules={"foo_nan.py": source})
        done = run_skyrl("losses", "check", "foo")
        assert done.returncode == 6
        assert "FAIL" in done.stdout
        assert "found:" in done.stdout
        assert "fix:" in done.stdout
        assert "not checked until the rules above hold" in done.stdout
        report = json.loads(run_skyrl("losses", "check", "foo", "--json").stdout)
        assert (report["schema_version"], report["passed"]) == (1, False)
        assert report["skipped"]
        assert any(rule["failure"] and rule["remedy"] for rule in report["rules"] if not rule["passed"])

    def test_a_required_parameter_that_is_missing_exits_with_4(self, foo, run_skyrl):
        done = run_skyrl("losses", "check", "foo")
        assert done.returncode == 4
        assert "needed = None: is required" in done.stderr

    def test_results_have_colours_only_if_they_are_asked_for(self, run_skyrl):
        plain = run_skyrl("losses", "check", "standard").stdout
        assert "\x1b" not in plain
        coloured = run_skyrl("losses", "check", "standard", FORCE_COLOR="1").stdout
        assert "\x1b[32mok\x1b[0m    " in coloured
        assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lst"], "no command is named 'lst'; did you mean 'list'?"),
        (["list", "--lng"], "unknown option --lng; did you mean --long?"),
        (["schema", "gspo", "--format", "yml"], "no choice is named 'yml'; did you mean 'yaml'?"),
        (["list", "--wholly-different"], "unknown option --wholly-different; `skyrl losses list --help` shows"),
    ],
)
def test_a_misspelled_word_gets_the_nearest_one(run_skyrl, arguments, message):
    done = run_skyrl("losses", *arguments)
    assert done.returncode == 2
    assert f"error: {message}" in done.stderr


@pytest.mark.parametrize("command", ["list", "show", "schema", "check", "new", "signature"])
def test_every_help_has_an_example_of_this_command(run_skyrl, command):
    examples = run_skyrl("losses", command, "--help").stdout.partition("examples:\n")[2]
    assert examples.startswith(f"  skyrl losses {command}")


@pytest.mark.parametrize(
    "arguments", [[], ["frobnicate"], ["show"], ["list", "--nope"], ["schema", "gspo", "--format", "x"]]
)
def test_wrong_usage_exits_with_2(run_skyrl, arguments):
    done = run_skyrl("losses", *arguments)
    assert done.returncode == 2
    assert "usage: skyrl losses" in done.stderr
