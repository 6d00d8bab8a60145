"""The model card of an exported model: README.md, which a hub shows. It names no path of this machine."""

import json
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from skyrl_train.config.yaml_text import write_yaml
from skyrl_train.tracking.metric_glossary import describe, format_metric, in_order

CODE = ("skyrl-core", "skyrl-train", "torch", "transformers")
"""Packages that the card names besides that of the loss."""


def write_card(source: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    """The text of README.md.

    Args:
        source: the origin of the model, as in ``skyrl.json``.
        run: the content of run.json; may be empty.
    """
    loss = source["loss"]
    base = _public_name(str(source["model"]))
    metadata = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["reinforcement-learning", "skyrl", f"policy-loss:{loss['name']}"],
    }
    if "/" in base:
        metadata["base_model"] = base
    lines = [
        "---",
        write_yaml(metadata).strip(),
        "---",
        "",
        f"# {PurePath(base).name} trained with {loss['name']}",
        "",
        f"`{base}` after {source['step']} training steps ({source['optimizer_steps']} optimizer steps) of "
        f"reinforcement learning with the policy loss `{loss['name']}`, by skyrl-train.",
        "",
        *_evaluations(run),
        "## Loss",
        "",
        f"`{loss['id']}`, from {loss['distribution']} {loss['version']}:",
        "",
        "```json",
        json.dumps({"params": loss["params"], "components": [_short(part) for part in loss["components"]]}, indent=2),
        "```",
        "",
        "## Provenance",
        "",
        *(f"- {name}: {value}" for name, value in _provenance(loss, run)),
        "",
    ]
    return "\n".join(lines)


def _public_name(model: str) -> str:
    """The name of a hub model, or the last part of a folder."""
    return PurePath(model).name if model.startswith(("/", ".", "~")) or model.count("/") > 1 else model


def _short(component: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": component["id"], "version": component["version"], "params": component["params"]}


def _evaluations(run: Mapping[str, Any]) -> Iterator[str]:
    before, after = run.get("before") or {}, run.get("after") or {}
    names = in_order({**before, **after})
    if not names:
        return
    yield from ("## Held-out problems", "", "| | before | after |", "|---|---:|---:|")
    for name in names:
        yield f"| {describe(name).label} | {format_metric(name, before)} | {format_metric(name, after)} |"
    yield from ("", "± is one standard error.", "")


def _provenance(loss: Mapping[str, Any], run: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "SHA-256 of the loss's files", f"`{loss['files_sha256']}`"
    packages = run.get("packages") or {}
    if known := [f"{name} {packages[name]}" for name in (*CODE, loss["distribution"]) if name in packages]:
        yield "packages", ", ".join(dict.fromkeys(known))
    for name, key in (("seeds", "seeds"), ("processes", "world_size"), ("started", "started"), ("Python", "python")):
        if run.get(key):
            value = run[key]
            text = ", ".join(f"{part} {number}" for part, number in value.items()) if key == "seeds" else value
            yield name, str(text)
    if commit := (run.get("git") or {}).get("commit"):
        yield "git commit", f"`{commit}`{' with changes' if run['git'].get('dirty') else ''}"
