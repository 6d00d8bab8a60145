"""Reference pages that are generated from the code when the site is built; none of them is committed."""

import ast
import importlib
import inspect
import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from itertools import groupby
from types import GenericAlias

from pages import ROOT

from skyrl_core import SkyrlError, policy_losses
from skyrl_core.cli.parameter_table import parameters
from skyrl_core.registry.resolved_loss import ResolvedLoss
from skyrl_train.config.options import Option, all_options, all_sections
from skyrl_train.config.yaml_text import inline_yaml
from skyrl_train.tracking.metric_glossary import GLOSSARY, describe

FACES = {
    "skyrl_core": "Losses and advantage estimators",
    "skyrl_core.maths": "Tensor functions",
    "skyrl_core.testing": "Tests for a loss",
    "skyrl_train": "Training, environments, rollout engines, trackers",
}
VALUES = runpy.run_path(str(ROOT / "docs/generate_api.py"))["WITHOUT_DOCSTRING"]
UNITS = {"percent": "fraction", "number": ""}
CODES = {
    0: "success",
    SkyrlError.exit_code: "wrong usage, a missing file, or an unknown name",
    130: "interrupted by Ctrl-C",
}


def reference_pages() -> dict[str, str]:
    """Every generated page by its name in reference/, in the order of the navigation."""
    apis = {face: api_page(face) for face in FACES}
    return {
        **apis,
        "options": options_page(),
        "loss_parameters": loss_parameters_page(),
        "metrics": metrics_page(),
        "errors": errors_page(),
        "commands": commands_page(),
    }


def api_page(face: str) -> str:
    """Every public name of a package: signature, docstring, members."""
    module = importlib.import_module(face)
    names = [name for name in sorted(module.__all__, key=str.lower) if not name.startswith("__")]
    directives = [_directive(f"{face}.{name}", getattr(module, name)) for name in names]
    body = "\n\n".join([f".. module:: {face}", *directives])
    return f"# `{face}`\n\n{FACES[face]}: `from {face} import NAME`\n\n```{{eval-rst}}\n{body}\n```\n"


def _directive(path: str, exported: object) -> str:
    """The directive that documents an object; autodoc would take the docstring of the type for a plain value."""
    if inspect.isclass(exported) and issubclass(exported, BaseException):
        return f".. autoexception:: {path}"
    if inspect.isclass(exported) and not isinstance(exported, GenericAlias):
        return f".. autoclass:: {path}"
    if inspect.isroutine(exported):
        return f".. autofunction:: {path}"
    return f".. data:: {path}\n\n   {VALUES.get(path.rpartition('.')[2], '')}"


def options_page() -> str:
    """Every configuration option with type, default, range and description."""
    parts = ["# Configuration options", "[Configuration](../configuration.md) explains files, overrides and schedules."]
    for section, members in groupby(all_options(), key=lambda option: option.section):
        about = inspect.getdoc(all_sections()[section]) or ""
        parts += [f"## {f'`{section}`' if section else 'The run'}", about, *map(_option, members)]
    return "\n\n".join(parts) + "\n"


def _option(option: Option) -> str:
    choices = f" One of: {', '.join(f'`{choice}`' for choice in option.choices)}." if option.choices else ""
    return _key(option.key, (option.type, option.range), inline_yaml(option.default), option.description, choices)


def loss_parameters_page() -> str:
    """Every parameter of every installed loss, as a key of the configuration."""
    about = "[Losses](../losses.md) has formulas, pictures and papers. Every number can be a schedule."
    parts = ["# Parameters of losses", about]
    for claim in sorted((each for each in policy_losses() if each.status == "ok"), key=lambda each: each.name):
        loss = ResolvedLoss(claim)
        parts += [f"## {claim.name}", f"{_escaped(claim.summary)} From {claim.distribution} {claim.version}."]
        rows = parameters(loss.schema or loss.plugin.Params)
        parts += [
            _key(f"trainer.algorithm.{claim.name}.{row.name}", (row.type, row.range), row.default, row.description)
            for row in rows
        ]
        parts += [] if rows else ["No parameters."]
    return "\n\n".join(parts) + "\n"


def _key(key: str, kind: tuple[str, str], default: str, *texts: str) -> str:
    """One key of the configuration; search finds it by its full name and by its last part."""
    about = {"type": _escaped(", ".join(filter(None, kind))), "default": f"`{default}`"}
    fields = "\n".join(f":{name}: {json.dumps(text, ensure_ascii=False)}" for name, text in about.items())
    return f"````{{confval}} {key}\n{fields}\n\n{''.join(map(_escaped, texts))}\n````"


def metrics_page() -> str:
    """Every metric of the glossary, by the chart of the report that shows it."""
    parts = [
        "# Metrics",
        "The metrics of a run, by chart of the report. [Tracking](../tracking.md#metrics) explains names with `*`.",
    ]
    rows = [(describe(entry.pattern).chart, entry) for entry in GLOSSARY]
    charts = dict.fromkeys(chart for chart, _ in rows)
    for wanted in charts:
        table = ["| metric | unit | meaning |", "|---|---|---|"]
        table += [
            f"| `{entry.pattern}` | {UNITS.get(entry.unit, entry.unit)} | {_escaped(entry.meaning)} |"
            for chart, entry in rows
            if chart == wanted
        ]
        parts += [f"## {wanted.replace('*', 'other metrics')}", "\n".join(table)]
    return "\n\n".join(parts) + "\n"


def errors_page() -> str:
    """Every error that ends a command without a traceback, by exit code."""
    found = sorted(error_classes(), key=lambda error: (error[1], error[0]))
    parts = ["# Errors and exit codes"]
    parts += ["Every error below is a `skyrl_core.SkyrlError`: a command prints its message, without a traceback, and"]
    parts[-1] += " ends with its exit code. [Troubleshooting](../troubleshooting.md) has the most common messages."
    for code, errors in groupby(found, key=lambda error: error[1]):
        rows = [f"| `{name}` | {summary} | `{module}` |" for name, _, module, summary in errors]
        table = "\n".join(["| error | meaning | defined in |", "|---|---|---|", *rows])
        parts += [f"## Exit code {code}", CODES.get(code, "") and f"{CODES[code].capitalize()}.", table]
    others = [f"- {code}: {meaning}" for code, meaning in CODES.items() if code not in {error[1] for error in found}]
    parts += ["## Other exit codes", "\n".join(others)]
    return "\n\n".join(part for part in parts if part) + "\n"


def error_classes() -> list[tuple[str, int, str, str]]:
    """Name, exit code, module and summary of each error, read from the sources, so that vLLM is not imported."""
    known: dict[str, tuple[str, int, str, str]] = {}
    classes = [*_classes()]
    while grown := [
        (node, module) for node, module in classes if node.name not in known and _parent(node, known) is not None
    ]:
        for node, module in grown:
            inherited = known[parent][1] if (parent := _parent(node, known)) else 1
            summary = (ast.get_docstring(node) or "").partition("\n\n")[0].replace("\n", " ").replace("``", "`")
            known[node.name] = (node.name, _exit_code(node, inherited), module, summary.replace("|", "\\|"))
    return list(known.values())


def _classes() -> Iterator[tuple[ast.ClassDef, str]]:
    for source in (ROOT / "core/src", ROOT / "trainer/src"):
        for path in sorted(source.rglob("*.py")):
            module = ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")
            tree = ast.parse(path.read_text(encoding="utf-8"))
            yield from ((node, module) for node in ast.walk(tree) if isinstance(node, ast.ClassDef))


def _parent(node: ast.ClassDef, known: dict[str, tuple[str, int, str, str]]) -> str | None:
    """The error that a class inherits from; empty for SkyrlError itself; None for any other class."""
    if node.name == SkyrlError.__name__:
        return ""
    bases = [ast.unparse(base).rpartition(".")[2] for base in node.bases]
    return next((base for base in bases if base in known), None)


def _exit_code(node: ast.ClassDef, inherited: int) -> int:
    for line in node.body:
        match line:
            case ast.Assign(targets=[ast.Name(id="exit_code")], value=ast.Constant(value=int(code))):
                return code
            case ast.AnnAssign(target=ast.Name(id="exit_code"), value=ast.Constant(value=int(code))):
                return code
    return inherited


def commands_page() -> str:
    """The help of every command."""
    parts = ["# Commands", "The help of each command, as `--help` prints it."]
    for name in sorted(entry.name for entry in entry_points(group="skyrl.commands")):
        text = _help(name)
        parts += [f"## skyrl {name}", f"```text\n{text}\n```"]
        _, _, listed = text.partition(" COMMAND\n")
        for nested in re.findall(r"^ {4}(\w+)(?= {2}|$)", listed, flags=re.MULTILINE):
            parts += [f"### skyrl {name} {nested}", f"```text\n{_help(name, nested)}\n```"]
    return "\n\n".join(parts) + "\n"


def _help(*command: str) -> str:
    program = [sys.executable, "-m", "skyrl_core.cli.main", *command, "--help"]
    environment = {**os.environ, "COLUMNS": "90", "NO_COLOR": "1"}
    return subprocess.run(program, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def _escaped(text: str) -> str:
    """Text of the code as Markdown: no tags, no emphasis by accident, no end of a table cell."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([<>*_|\[\]])", r"\\\1", part) for part in parts)
