"""Numbers may change only together with semantics_version."""

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
    """The package with its numbers written; a call changes it and checks it again."""
    # A file that changes twice within a second would be read from its cache.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    folder = package()
    check_loss_package(folder, rewrite_golden=True).raise_for_failures()

    def change(*replacements, params=None, **options):
        for path, old, new in replacements:
            text = (folder / path).read_text()
            assert old in text
            (folder / path).write_text(text.replace(old, new))
        package_modules_forgotten()
        report = check_loss_package(folder, params, **options)
        return next(result for result in report.package.results if result.rule == "golden")

    change.file = folder / "tests" / "golden.json"
    return change


def package_modules_forgotten() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "skyrl_loss_scaled"]:
        del sys.modules[name]
    importlib.invalidate_caches()


def test_the_same_numbers_pass(golden) -> None:
    result = golden()
    assert result.passed
    assert result.notes == ()


def test_the_file_has_inputs_and_outputs_that_agree_by_hand(golden) -> None:
    content = json.loads(golden.file.read_text())["losses"]["scaled"]
    assert (content["semantics_version"], content["params"]) == (1, {"scale": 2.0})
    case = content["cases"]["ordinary"]
    inputs = {name: torch_free(case["inputs"][name]) for name in ("log_probs", "old_log_probs", "advantages", "mask")}
    terms = [-2.0 * math.exp(p - o) * a for p, o, a, m in zip(*inputs.values(), strict=True) if m]
    assert case["outputs"]["total"] == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def torch_free(rows):
    return [value for row in rows for value in row]


@pytest.mark.parametrize(
    "change",
    [
        (LOSS, "ratio * batch.advantages", "ratio.clamp(max=1.2) * batch.advantages"),
        (LOSS, "ratio * batch.advantages", "ratio.clamp(1.0, 6.0) * batch.advantages"),  # SkyRL's CISPO: a floor of 1
        (PARAMS, "default=2.0", "default=2.5"),
    ],
)
def test_other_numbers_under_the_same_version_fail(golden, change) -> None:
    result = golden(change)
    assert not result.passed
    assert "and semantics_version is still 1" in result.failure
    assert "raise semantics_version and run `skyrl losses check FOLDER --write-golden`" in result.remedy


def test_they_cannot_be_written_either(golden) -> None:
    before = golden.file.read_text()
    with pytest.raises(ConformanceError, match="raise it in the class before the numbers are written"):
        golden((PARAMS, "default=2.0", "default=2.5"), rewrite_golden=True)
    assert golden.file.read_text() == before


def test_a_new_version_asks_for_a_new_file_and_gets_it(golden) -> None:
    changes = [(PARAMS, "default=2.0", "default=2.5"), (LOSS, "semantics_version = 1", "semantics_version = 2")]
    result = golden(*changes)
    assert result.failure == "scaled has semantics_version 2, the numbers in golden.json are of 1"
    assert result.remedy == "run `skyrl losses check FOLDER --write-golden`"
    assert golden(rewrite_golden=True).passed
    assert json.loads(golden.file.read_text())["losses"]["scaled"]["semantics_version"] == 2


def test_other_parameters_than_the_default_ones_are_not_compared(golden) -> None:
    result = golden(params={"scale": 5.0})
    assert result.passed
    assert result.notes == ("scaled: not compared, because golden.json is for {'scale': 2.0}",)


def test_a_file_that_cannot_be_read_is_a_failure(golden) -> None:
    golden.file.write_text("{")
    assert "cannot be read" in golden().failure
    golden.file.write_text('{"format": 99, "losses": {}}')
    assert "has format 99" in golden().failure
    golden.file.write_text('{"format": 1, "losses": {}}')
    assert golden().failure == "golden.json has no numbers of scaled"
