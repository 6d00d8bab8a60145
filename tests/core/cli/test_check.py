"""`skyrl losses check`: an installed loss, a class, a folder; parameters, JSON, golden numbers."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from skyrl_core.cli.losses import main
from skyrl_core.errors import InvalidParamsError, PluginLoadError, SkyrlError

ROOT = Path(__file__).parents[3]


def check(capsys, *arguments: str) -> tuple[int, str]:
    code = main(["check", *arguments])
    return code, capsys.readouterr().out


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("gspo", "gspo (skyrl-core"),
        ("skyrl-core:gspo", "gspo (skyrl-core"),
        ("gspo@1", "gspo (skyrl-core"),
        ("skyrl_core.losses.gspo:GspoLoss", "skyrl_core.losses.gspo:GspoLoss"),
    ],
)
def test_a_loss_is_found_by_name_or_class(capsys, target: str, name: str) -> None:
    code, out = check(capsys, target)
    assert code == 0
    assert name in out
    assert "keeps all 23 rules" in out


def test_parameters_can_be_set(capsys) -> None:
    code, out = check(capsys, "entropy_reg", "--param", "entropy=sampled", "--param", "entropy_coef=0.5")
    assert code == 0
    assert "sampled_entropy" in out
    assert "reproduces runs" in out  # the reason of its waiver
    with pytest.raises(InvalidParamsError, match="entropy_coef"):
        check(capsys, "entropy_reg", "--param", "entropy_coef=-1")


def test_a_folder_is_checked_with_the_rules_of_packages(capsys) -> None:
    code, out = check(capsys, str(ROOT / "plugins/clipped_pg"))
    assert code == 0
    assert "package skyrl-loss-clippedpg keeps all 6 rules" in out
    assert "loss clipped_pg keeps all 23 rules" in out


@pytest.mark.parametrize("where", ["token_losses", "needs", "__init__"])
def test_a_loss_that_exits_is_a_failure(capsys, tmp_path, monkeypatch, where) -> None:
    source = (ROOT / "core/src/skyrl_core/losses/standard.py").read_text()
    source += f"\ndef leave(*_):\n    raise SystemExit(0)\nStandardLoss.{where} = leave\n"
    module = f"leaving_in_{where.strip('_')}"
    (tmp_path / f"{module}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    if where == "__init__":
        with pytest.raises(PluginLoadError, match=r"could not be constructed with .*: SystemExit: 0"):
            check(capsys, f"{module}:StandardLoss")
        return
    code, out = check(capsys, f"{module}:StandardLoss")
    assert code == 6
    assert "raised SystemExit: 0" in " ".join(out.split())
    assert f"{module}.py" in out


def test_a_wrong_loss_exits_with_6_and_reports_what_to_change(capsys, tmp_path, monkeypatch) -> None:
    source = (ROOT / "core/src/skyrl_core/losses/standard.py").read_text().replace("return -ratio", "return ratio")
    (tmp_path / "flipped_loss.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    code, out = check(capsys, "flipped_loss:StandardLoss", "--json")
    assert code == 6
    report = json.loads(out)
    [broken] = [rule for rule in report["rules"] if not rule["passed"]]
    assert broken["rule"] == "gradient_sign"
    assert broken["input"]["advantages"]
    assert "multiply -ratio by the advantages" in broken["remedy"]


def test_golden_numbers_are_written_and_fail_once_the_numbers_change(tmp_path) -> None:
    folder = tmp_path / "clipped_pg"
    shutil.copytree(ROOT / "plugins/clipped_pg", folder, ignore=shutil.ignore_patterns("__pycache__"))

    def checked(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "skyrl_core.cli.main", "losses", "check", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert checked("--write-golden").returncode == 0
    assert json.loads((folder / "tests/golden.json").read_text())
    assert checked().returncode == 0
    loss = next((folder / "src").rglob("loss.py"))
    loss.write_text(loss.read_text().replace("values=", "values=1.5 * "))
    done = checked()
    assert done.returncode == 6
    assert "FAIL   golden" in done.stdout
    assert "raise semantics_version" in done.stdout


def test_golden_numbers_need_a_folder(capsys) -> None:
    with pytest.raises(SkyrlError, match="--write-golden writes into the folder of a package"):
        check(capsys, "gspo", "--write-golden")


def test_a_folder_that_is_not_a_package_is_an_error(capsys, tmp_path) -> None:
    with pytest.raises(SkyrlError, match=r"pyproject\.toml"):
        check(capsys, str(tmp_path))


@pytest.mark.parametrize(
    ("param", "message"),
    [
        ("clip_low=" + "9" * 5000, "has more than 100 digits"),
        ("clip_low=[" + "9" * 5000 + "]", "is not valid JSON"),
        ("clip_low=" + "[" * 100_000, "is not valid JSON"),
        ("clip_low=" + "[" * 500 + "]" * 500, "nested more than 64 levels deep"),
        (".".join("a" * 500) + "=1", "more than 64 blocks"),
        ("clip_low=1__0", "must be a number"),
        ("clip_low='1'", "must be a number"),
        ("clip_low=true", "must be a number"),
        ("clip_low=[NaN]", "must be a number"),
        ("\x1b[31m", r"--param \x1b[31m: expected KEY=VALUE"),
        ("\x1b[31m=1", r"\x1b[31m = 1: unknown parameter"),
    ],
    ids=range(11),
)
def test_a_bad_parameter_is_a_short_printable_message(param: str, message: str) -> None:
    with pytest.raises(SkyrlError) as caught:
        main(["check", "gspo", "--param", param])
    assert message in str(caught.value)
    assert str(caught.value).replace("\n", "").isprintable()
    assert len(str(caught.value)) < 1500
