"""`skyrl losses show` and `skyrl losses schema`: one policy loss and its parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from skyrl_core.cli.claim_list import status_cell
from skyrl_core.cli.colour import Styled, paint
from skyrl_core.cli.json_output import print_json
from skyrl_core.cli.parameter_table import as_markdown, as_yaml, parameters
from skyrl_core.cli.table import indented, painted, render_table, terminal_width
from skyrl_core.discovery.module_source import class_constants, source_file
from skyrl_core.discovery.plugin_group import Claim
from skyrl_core.parameters.loss_params import LossParams
from skyrl_core.parameters.schema_call import json_schema
from skyrl_core.registry.loss_registry import LOSSES
from skyrl_core.registry.resolved_loss import ResolvedLoss

SCHEMA_VERSION = 1
LONGEST_DEFAULT = 40
"""In characters; a longer default would push the other columns off the terminal."""
_CONSTANTS = ("api_version", "semantics_version", "reference", "default_reduction")


def show(reference: str, *, as_json: bool) -> int:
    """Print the details of a loss; import it only if it declares no schema."""
    claim = LOSSES.find(reference)
    schema = _schema(claim)
    file = source_file(claim.module)
    constants = class_constants(file, claim.attribute) if file else {}
    facts = {key: constants.get(key) for key in _CONSTANTS}
    if as_json:
        details = {"file": str(file) if file else None, "params": json_schema(schema)}
        print_json(SCHEMA_VERSION, claim.record() | facts | details)
        return 0
    print("\n".join(_page(claim, facts, str(file or "no source file"), schema)))
    return 0


def schema(reference: str, form: str) -> int:
    """Print the parameters of a loss as JSON Schema, a YAML config or a Markdown table."""
    claim = LOSSES.find(reference)
    params = _schema(claim)
    if form == "json":
        print(json.dumps(json_schema(params), indent=2, ensure_ascii=False))
    elif form == "yaml":
        print(as_yaml(claim.name, parameters(params)))
    else:
        print(as_markdown(parameters(params)))
    return 0


def _schema(claim: Claim) -> type[LossParams]:
    loss = ResolvedLoss(claim)
    return loss.schema or loss.plugin.Params


def _page(claim: Claim, facts: Mapping[str, Any], file: str, schema: type[LossParams]) -> list[str]:
    width = terminal_width()
    about = {
        "distribution": f"{claim.distribution} {claim.version}",
        "class": claim.value,
        "file": file,
        "status": claim.status,
    }
    if origin := claim.origin:
        about["installed from"] = f"{origin} (editable)" if origin.editable else str(origin)
    about |= {key.replace("_", " "): str(value) for key, value in facts.items() if value is not None}
    label = max(map(len, about)) + 2
    lines = [paint(claim.name, "bold"), *indented(claim.summary, width, "  "), ""]
    about["status"] = painted(status_cell(claim))
    for key, value in about.items():
        first, *rest = indented(value, width, " " * (label + 2)) or [""]
        lines += [f"  {paint(f'{key:<{label}}', 'dim')}{first.strip()}", *rest]
    rows = parameters(schema)
    if not rows:
        return [
            *lines,
            "",
            "  It has no parameters." if claim.status == "ok" else "  It accepts any parameters, unchecked.",
        ]
    long = [len(row.default) > LONGEST_DEFAULT for row in rows]
    cells = [
        (Styled(row.name, "cyan"), "see below" if below else row.default, row.type, row.range, row.description)
        for row, below in zip(rows, long, strict=True)
    ]
    notes = [f"default: {row.default}" if below else "" for row, below in zip(rows, long, strict=True)]
    return [*lines, "", *render_table(("PARAMETER", "DEFAULT", "TYPE", "RANGE", "DESCRIPTION"), cells, notes, width)]
