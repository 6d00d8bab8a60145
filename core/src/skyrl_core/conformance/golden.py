"""Golden numbers of a loss in a file: they may change only together with its ``semantics_version``."""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from skyrl_core.conformance.batches import ExampleBatch, example_batch, wide_batch
from skyrl_core.conformance.rule import Violation
from skyrl_core.conformance.trial import Trial, run
from skyrl_core.contract.policy_loss import PolicyLoss
from skyrl_core.errors import ConformanceError

FORMAT = 1
_TENSORS = ("total", "gradient", "entropy_gradient")
_REWRITE = "run `skyrl losses check FOLDER --write-golden`"


def check_golden(file: Path, losses: Mapping[str, PolicyLoss], *, are_defaults: bool = True) -> list[str]:
    """Compare losses, with their current parameters, with the numbers in a file.

    Args:
        file: a missing file is only a note.
        losses: by name.
        are_defaults: the losses have their default parameters; if not, parameters that differ from the file are no
            change.

    Raises:
        Violation: numbers or parameters changed under the same semantics_version, or the file is out of date.
    """
    if not file.is_file():
        return [f"{file.parent.name}/{file.name} does not exist: {_REWRITE} and commit the file"]
    content, notes = _read(file), []
    for name, loss in losses.items():
        if name not in content:
            raise Violation(f"{file.name} has no numbers for {name}", remedy=_REWRITE)
        version, was = _semantics(loss), content[name]["semantics_version"]
        if version != was:
            found = f"{name} has semantics_version {version}, but the numbers in {file.name} are for {was}"
            raise Violation(found, remedy=_REWRITE)
        if not are_defaults and content[name]["params"] != _params(loss):
            notes.append(f"{name}: not compared, because {file.name} is for the parameters {content[name]['params']}")
        elif change := _change(loss, content[name]):
            raise Violation(
                f"{name}: {change}, but semantics_version is still {version}",
                remedy=f"undo the change, or raise semantics_version and {_REWRITE}",
            )
    return notes


def write_golden(file: Path, losses: Mapping[str, PolicyLoss]) -> None:
    """Write the file with these losses and no others.

    Raises:
        ConformanceError: numbers changed under the same semantics_version, or the existing file cannot be read.
    """
    try:
        content = _read(file) if file.is_file() else {}
    except Violation as violation:
        raise ConformanceError(f"{violation.found}: {violation.remedy}") from violation
    for name, loss in losses.items():
        was = content.get(name)
        if was and was["semantics_version"] == _semantics(loss) and (change := _change(loss, was)):
            raise ConformanceError(
                f"{file}: {name}: {change}, but semantics_version is still {was['semantics_version']}\n"
                "raise it in the class before writing the numbers; if they were never released, delete the file"
            )
    file.parent.mkdir(parents=True, exist_ok=True)
    numbers = {name: _numbers(loss) for name, loss in losses.items()}
    file.write_text(json.dumps({"format": FORMAT, "losses": numbers}, indent=1) + "\n", encoding="utf-8")


def _numbers(loss: PolicyLoss) -> dict[str, Any]:
    cases = {}
    for name, batch in {"ordinary": example_batch(), "wide": wide_batch()}.items():
        trial = run(loss, batch)
        cases[name] = {
            "inputs": {field.name: getattr(batch, field.name).tolist() for field in fields(batch)},
            "outputs": {key: getattr(trial, key).tolist() for key in _TENSORS},
        }
    return {"semantics_version": _semantics(loss), "params": _params(loss), "cases": cases}


def _change(loss: PolicyLoss, was: Mapping[str, Any]) -> str | None:
    if was["params"] != _params(loss):
        return f"its parameters are {_params(loss)} instead of {was['params']}"
    for name, case in was["cases"].items():
        batch = ExampleBatch(**{key: torch.tensor(value) for key, value in case["inputs"].items()})
        expected = Trial(**{key: _tensor(case["outputs"][key]) for key in _TENSORS}, metrics={})
        if difference := expected.difference(run(loss, batch)):
            return f"on the {name} batch {difference}"
    return None


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        losses: dict[str, Any] = content["losses"]
        known = content["format"] == FORMAT
    except (ValueError, KeyError, TypeError) as error:
        raise Violation(f"{file} cannot be read: {error!r}", remedy=f"delete it and {_REWRITE}") from error
    if not known:
        raise Violation(f"{file} has format {content['format']!r}, not {FORMAT}", remedy=f"delete it and {_REWRITE}")
    return losses


def _tensor(value: Any) -> Tensor:
    return torch.tensor(value, dtype=torch.float32)


def _params(loss: PolicyLoss) -> Any:
    return json.loads(json.dumps(loss.params.model_dump(mode="json")))


def _semantics(loss: PolicyLoss) -> int | None:
    return getattr(type(loss), "semantics_version", None)
