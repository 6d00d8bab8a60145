"""The numbers of a loss may change only together with its semantics_version."""

import importlib
import json
import math
import sys

import pytest

from skyrl_core.conformance.package.package_check import check_loss_package
from skyrl_core.errors import ConformanceError

LOSS = "src/skyrl_loss_scaled/loss.py"
PARAMS = "src/skyrl_loss_scaled/params.py"


@pytest.fixture
def golden(package, monkeypatch):
    """A package with its golden numbers written; calling the fixture changes the package and checks it again."""
    # Otherwise a file that changes twice within a second would be loaded from its bytecode cache.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    folder = package()
    check_loss_package(folder, rewrite_golden=True).raise_for_failures()

    def change(*replacements, params=None, **options):
        for path, old, new in replacements:
            text = (folder / path).read_text()
            assert old in text
            (folder / path).write_text(text.replace(old, new))
        unload_package()
        report = check_loss_package(folder, params, **options)
        return next(result for result in report.package.results if result.rule == "golden")

    change.file = folder / "tests" / "golden.json"
    return change


def unload_package() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "skyrl_loss_scaled"]:
        del sys.modules[name]
    importlib.invalidate_caches()


def test_the_same_numbers_pass(golden) -> None:
    result = golden()
    assert result.passed
    assert result.notes == ()


def test_the_numbers_in_the_file_agree_with_the_formula(golden) -> None:
    content = json.loads(golden.file.read_text())["losses"]["scaled"]
    assert (content["semantics_version"], content["params"]) == (1, {"scale": 2.0})
    case = content["cases"]["ordinary"]
    inputs = {name: flattened(case["inputs"][name]) for name in ("log_probs", "old_log_probs", "advantages", "mask")}
    terms = [-2.0 * math.exp(p - o) * a for p, o, a, m in zip(*inputs.values(), strict=True) if m]
    assert case["outputs"]["total"] == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def flattened(rows):
    return [value for row in rows for value in row]


@pytest.mark.parametrize(
    "change",
    [
        (LOSS, "ratio * batch.advantages", "ratio.clamp(max=1.2) * batch.advantages"),
        (LOSS, "ratio * batch.advantages", "ratio.clamp(1.0, 6.0) * batch.advantages"),  # SkyRL's CISPO: a floor of 1
        (PARAMS, "default=2.0", "default=2.5"),
    ],
)
def test_changed_numbers_under_the_same_version_fail(golden, change) -> None:
    result = golden(change)
    assert not result.passed
    assert "but semantics_version is still 1" in result.failure
    assert "raise semantics_version and run `skyrl losses check FOLDER --write-golden`" in result.remedy


def test_changed_numbers_under_the_same_version_cannot_be_written(golden) -> None:
    before = golden.file.read_text()
    with pytest.raises(ConformanceError, match="raise it in the class before writing the numbers"):
        golden((PARAMS, "default=2.0", "default=2.5"), rewrite_golden=True)
    assert golden.file.read_text() == before


def test_a_new_version_fails_until_the_file_is_rewritten(golden) -> None:
    changes = [(PARAMS, "default=2.0", "default=2.5"), (LOSS, "semantics_version = 1", "semantics_version = 2")]
    result = golden(*changes)
    assert result.failure == "scaled has semantics_version 2, but the numbers in golden.json are for 1"
    assert result.remedy == "run `skyrl losses check FOLDER --write-golden`"
    assert golden(rewrite_golden=True).passed
    assert json.loads(golden.file.read_text())["losses"]["scaled"]["semantics_version"] == 2


def test_non_default_parameters_are_not_compared(golden) -> None:
    result = golden(params={"scale": 5.0})
    assert result.passed
    assert result.notes == ("scaled: not compared, because golden.json is for the parameters {'scale': 2.0}",)


def test_an_unreadable_file_is_a_failure(golden) -> None:
    golden.file.write_text("{")
    assert "cannot be read" in golden().failure
    golden.file.write_text('{"format": 99, "losses": {}}')
    assert "has format 99" in golden().failure
    golden.file.write_text('{"format": 1, "losses": {}}')
    assert golden().failure == "golden.json has no numbers for scaled"
