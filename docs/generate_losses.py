"""Writes losses.md and the pictures in signatures/ from the losses: `nox -s generated_docs`.

The page has every loss of this repository's distributions; other installed losses do not change it.
"""

import ast
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from skyrl_core import (
    Claim,
    Need,
    PolicyLoss,
    Probe,
    Signature,
    TokenLosses,
    load_policy_loss,
    measure_signature,
    policy_losses,
)
from skyrl_core.cli.parameter_table import as_markdown, as_yaml, parameters
from skyrl_core.cli.signature import describe_curve, ratio_label
from skyrl_core.signature import ADVANTAGES, Scale, svg
from skyrl_core.testing import example_batch, loss_batch

FOLDER = Path(__file__).parent
DISTRIBUTIONS = ("skyrl-core", "skyrl-loss-clippedpg", "skyrl-loss-entropyreg")

FAMILIES = {
    "Policy gradient": ("reinforce", "standard", "importance_sampling"),
    "Clipped or capped token ratio": (
        "clipped_pg",
        "dual_clip",
        "entropy_reg",
        "decoupled_ppo",
        "cispo",
        "sapo",
    ),
    "Sequence ratio": ("gspo", "luspo", "gmpo", "vespo"),
    "Tokens dropped outside a trust region": ("icepop", "kpop", "dppo"),
    "Tokens chosen by covariance": ("clip_cov", "kl_cov"),
    "Penalty on the log-ratio": ("cpgd", "dro"),
    "Imitation": ("cross_entropy",),
    "Composition": ("sum",),
}
"""Headings and order of the page. A loss that is not listed here comes last."""

EXAMPLES: Mapping[str, Mapping[str, Any]] = {
    "sum": {
        "terms": [
            {"loss": "dual_clip", "weight": 1.0, "params": {"clip_high": 0.28}},
            {"loss": "cross_entropy", "weight": 0.2},
        ]
    }
}
"""Parameters to show for a loss whose defaults show nothing."""

ANCHORS = {Need.OLD_LOG_PROBS: "old", Need.ROLLOUT_LOG_PROBS: "rollout", Need.REF_LOG_PROBS: "reference"}
NO_NEED = "Only the policy's log-probs"

INTRODUCTION = """\
# Losses

<!-- Written by docs/generate_losses.py from the losses. Edit those, then run: nox -s generated_docs -->

This page describes every loss in this repository. Reductions, advantages, KL, corrections and schedules work the same
for all losses: see [ALGORITHMS.md](ALGORITHMS.md). To write a loss, see [writing_a_loss.md](writing_a_loss.md).
`skyrl losses list` lists all installed losses, and `skyrl losses signature NAME` draws the picture of any loss with the
parameters that you give.

**Notation.** A loss is minimised. π is the policy in training; `pi_old` is the trainer's policy before the update,
`mu` or `pi_rollout` is the rollout engine's policy, which sampled; A is the advantage; sg is the stop-gradient.

**Pictures.** Each picture plots a token's weight in the update, `-dL / dlog π`, over its importance ratio: how
strongly the loss pushes log π up, for A = +1 and A = -1. Weights can be compared between losses. Values cannot, because
with a stop-gradient the value is not an objective. On policy, at ratio 1, the weight of a policy gradient is A. Dotted
lines mark the bounds of the loss, where the weight jumps or bends. Everything is measured on the loss, with its
default parameters and before the reduction, on a sequence of {length} tokens that all have the same ratio and
probability {probability:g} under the policy in the denominator. If a loss reads both the old and the rollout policy,
the two agree.
"""


def main() -> None:
    """Write the page and the pictures, and remove pictures of deleted losses."""
    files = generated()
    for old in (FOLDER / "signatures").glob("*.svg"):
        if old not in files:
            old.unlink()
    for path, text in files.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    sys.stdout.write(f"wrote {len(files)} files in {FOLDER}\n")


def generated() -> dict[Path, str]:
    """Every file that this script owns, with its content."""
    claims = {claim.name: claim for claim in policy_losses() if claim.distribution in DISTRIBUTIONS}
    listed = {name for names in FAMILIES.values() for name in names}
    families = FAMILIES | {"Others": tuple(name for name in claims if name not in listed)}
    losses = {name: load_policy_loss(name, EXAMPLES.get(name)) for names in families.values() for name in names}
    measured = {name: measure_signature(loss) for name, loss in losses.items()}
    probe = Probe()
    page = [INTRODUCTION.format(length=probe.length, probability=probe.probability), *_summary(claims, losses)]
    for heading, names in families.items():
        if names:
            page += [f"## {heading}", *(_section(claims[name], losses[name], measured[name]) for name in names)]
    pictures = {
        FOLDER / "signatures" / f"{name}.svg": svg(measured[name], name, ratio_label(loss))
        for name, loss in losses.items()
    }
    return {FOLDER / "losses.md": "\n\n".join(part.strip("\n") for part in page) + "\n", **pictures}


def _summary(claims: Mapping[str, Claim], losses: Mapping[str, PolicyLoss]) -> Iterator[str]:
    rows = [
        f"| [`{name}`](#{name}) | {_cell(claims[name].summary)} | {_anchors(loss)} | `{loss.default_reduction}` "
        f"| {_linked(_cell(loss.reference))} |"
        for name, loss in losses.items()
    ]
    header = "| loss | summary | ratio to | default reduction | reference |"
    yield "\n".join([header, "|---|---|---|---|---|", *rows])


def _section(claim: Claim, loss: PolicyLoss, measured: Signature) -> str:
    schema = loss.Params
    config = _example_yaml(claim.name) if claim.name in EXAMPLES else as_yaml(claim.name, parameters(schema))
    identity = f"{claim.distribution}:{claim.name}@{loss.semantics_version}"
    facts = [
        f"**Reference.** {_linked(loss.reference)}. Identity: `{identity}`.",
        f"**Reads.** {_needs_in_words(loss)}",
        f"**Default reduction.** `{loss.default_reduction}`.",
        f"**Logs.** {_logs(loss)}",
    ]
    table = as_markdown(parameters(schema)) if parameters(schema) else "No parameters."
    return "\n\n".join(
        [
            f"### {claim.name}",
            *_explanation(claim),
            f"![Signature of {claim.name}](signatures/{claim.name}.svg)",
            "\n".join(_caption(claim.name, loss, measured)),
            table,
            f"```yaml\n{config}\n```",
            "\n".join(f"- {fact}" for fact in facts),
        ]
    )


def _explanation(claim: Claim) -> Iterator[str]:
    """The docstring of the loss's module; a formula at its start becomes a separate block."""
    docstring = inspect.cleandoc(ast.get_docstring(ast.parse(inspect.getsource(import_module(claim.module)))) or "")
    for paragraph in docstring.split("\n\n"):
        formula = re.match(r"Loss of a token: (?P<formula>[\s\S]+?)(?:\.\s|\.?\Z)", paragraph)
        if formula:
            yield f"Loss of a token:\n\n```text\n{_equation(formula['formula'])}\n```"
            paragraph = paragraph[formula.end() :].strip()
        if paragraph:
            # One line each: a line that began with `-` or `>` would be a list or a quotation.
            yield _linked(_markdown(" ".join(paragraph.split())))


def _caption(name: str, loss: PolicyLoss, measured: Signature) -> Iterator[str]:
    if name in EXAMPLES:
        yield "- The picture and the example below: " + _example_in_words(name) + "."
    for kind, curves in (("", measured.curves), (", selected", measured.singled_out)):
        yield from (f"- A = {curve.advantage:+g}{kind}: {describe_curve(curve)}." for curve in curves)
    if _depends_on_sequence(loss):
        yield (
            "- A token's weight depends on the ratios of all tokens of its sequence; here all of them have this ratio."
        )
    if _differs(loss, Probe(length=1)):
        tokens = measured.probe.length
        yield f"- It also depends on the length: a sequence of {tokens} tokens with ratio r has ratio r^{tokens}."
    if _differs(loss, Probe(probability=0.01)):
        yield "- The bounds depend on the probability of the token: rarer tokens may move by a larger ratio."
    if measured.singled_out:
        yield "- Dashed: a token that the loss selects by minibatch statistics. The others follow the solid line."
    if measured.entropy_weight:
        yield f"- Not in the picture: the token's entropy, which has weight {measured.entropy_weight:g} per nat."


def _depends_on_sequence(loss: PolicyLoss) -> bool:
    """Whether the first of two tokens gets another weight when the second one's ratio changes."""
    weights = []
    for second in (0.0, 0.1):
        log_probs = torch.full((1, 2), -2.0, dtype=torch.float64, requires_grad=True)
        anchor = log_probs.detach() - torch.tensor([[0.0, second]], dtype=torch.float64)
        others = dict.fromkeys(("rollout_log_probs", "ref_log_probs"), anchor)
        ones = torch.ones(1, 2, dtype=torch.float64)
        total = loss.compute_loss(log_probs, anchor, ones, ones, entropy=ones, loss_reduction="token_mean", **others)
        weights.append(torch.autograd.grad(total, log_probs)[0][0, 0].item())
    return abs(weights[0] - weights[1]) > 1e-9


def _differs(loss: PolicyLoss, probe: Probe) -> bool:
    """Whether the weight differs for another probe, at any of a few ratios."""
    here, there = Scale(loss, Probe()), Scale(loss, probe)
    return any(
        abs(here.weigh(ratio, advantage).weight - there.weigh(ratio, advantage).weight) > 1e-9
        for ratio in (0.15, 0.3, 0.6, 0.9, 1.1, 1.7, 3.3, 6.7)
        for advantage in ADVANTAGES
    )


def _anchors(loss: PolicyLoss) -> str:
    needs = loss.needs(loss.params)
    return ", ".join(name for need, name in ANCHORS.items() if need in needs) or "none"


def _needs_in_words(loss: PolicyLoss) -> str:
    default = frozenset(loss.needs(loss.params))
    parts = [_needs(default) + (", and the inputs of its terms." if loss.components(loss.params) else ".")]
    for name, value in _variations(loss):
        varied = frozenset(loss.needs(loss.params.model_copy(update={name: value})))
        if varied != default:
            parts.append(f"With `{name}: {json.dumps(value)}`: {_needs(varied)}.")
    return " ".join(parts)


def _needs(needs: frozenset[Need]) -> str:
    return ", ".join(f"`{need.value}`" for need in Need if need in needs) or NO_NEED


def _variations(loss: PolicyLoss) -> Iterator[tuple[str, Any]]:
    """Each parameter at the values where needs change: every choice, null, and the smallest number."""
    for name, field in loss.Params.model_json_schema().get("properties", {}).items():
        for option in field.get("anyOf", [field]):
            yield from ((name, choice) for choice in option.get("enum", ()))
            if option.get("type") == "null":
                yield name, None
            if "minimum" in option:
                yield name, option["minimum"]


def _logs(loss: PolicyLoss) -> str:
    output = _evaluated(loss)
    text = "Metrics " + ", ".join(f"`{name}`" for name in output.metrics) if output.metrics else "No metrics"
    if output.terms:
        text += "; terms " + ", ".join(f"`loss/{name}`" for name in output.terms) + ", each with its gradient norm"
    # The docstring of token_losses describes the metrics after its first clause.
    about = " ".join((inspect.getdoc(loss.token_losses) or "").partition("\n\n")[0].split()).partition("; ")[2]
    return f"{text}. {_markdown(about[:1].upper() + about[1:])}".strip()


def _evaluated(loss: PolicyLoss) -> TokenLosses:
    batch = loss_batch(loss, example_batch())
    with torch.no_grad():
        batch.prepared = loss.prepare(batch).tensors
    return loss.token_losses(batch)


def _example_yaml(name: str) -> str:
    lines = ["trainer:", "  algorithm:", f"    policy_loss_type: {name}", f"    {name}:"]
    for key, items in EXAMPLES[name].items():
        lines.append(f"      {key}:")
        for item in items:
            lines.append("        - {" + ", ".join(f"{k}: {_flow(v)}" for k, v in item.items()) + "}")
    return "\n".join(lines)


def _example_in_words(name: str) -> str:
    return " + ".join(f"{term['weight']:g} · {term['loss']}" for term in EXAMPLES[name]["terms"])


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(inner)}" for key, inner in value.items()) + "}"
    return str(value)


def _markdown(text: str) -> str:
    return text.replace("``", "`")


def _equation(formula: str) -> str:
    """The formula on one line, then each explaining clause on another."""
    clauses = re.split(
        r", (?=with |gradient |averaged |and at |and where |and 0 )", " ".join(formula.replace("`", "").split())
    )
    return "\n".join(line for clause in clauses for line in textwrap.wrap(clause, 120))


def _cell(text: str) -> str:
    return _markdown(text).replace("|", "\\|").rstrip(".")


def _linked(text: str) -> str:
    text = re.sub(r"arXiv\s(\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", text)
    return re.sub(r"(?<![(<\w])(https?://[^\s)>,;]*[^\s)>,;.])", r"<\1>", text)


if __name__ == "__main__":
    main()
