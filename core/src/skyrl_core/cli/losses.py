"""List, explain and check the installed policy losses."""

import argparse
from collections.abc import Sequence

from skyrl_core.cli.table import indented, render_table, terminal_width
from skyrl_core.discovery.plugin_group import Claim, PluginPolicy

SCHEMA_VERSION = 1
"""Of the JSON output; goes up when a key changes its meaning or goes away."""


def main(argv: Sequence[str]) -> int:
    """Run `skyrl losses`; returns the exit code."""
    arguments = _parser().parse_args(argv)
    if arguments.command == "list":
        return _list(PluginPolicy(arguments.allow, arguments.deny), as_json=arguments.json, long=arguments.long)
    if arguments.command == "new":
        from skyrl_core.cli.new import new

        return new(arguments.name, arguments.folder, arguments.form, as_json=arguments.json)
    if arguments.command == "signature":
        from skyrl_core.cli import signature

        return signature.run(arguments)
    # The other commands import pydantic, which costs more than a whole listing.
    if arguments.command == "check":
        from skyrl_core.cli import check

        return check.run(arguments)
    from skyrl_core.cli import loss_details

    if arguments.command == "show":
        return loss_details.show(arguments.name, as_json=arguments.json)
    return loss_details.schema(arguments.name, arguments.format)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="skyrl losses", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    listing = commands.add_parser("list", help="list every installed loss, without importing any")
    listing.add_argument("--long", action="store_true", help="uncut summaries and the class of each loss")
    listing.add_argument("--allow", action="append", metavar="DISTRIBUTION", help="as plugins.allow; may be repeated")
    listing.add_argument(
        "--deny", action="append", default=[], metavar="DISTRIBUTION", help="as plugins.deny; likewise"
    )

    show = commands.add_parser("show", help="one loss: class, reference, parameters")
    schema = commands.add_parser("schema", help="the parameters of one loss, for programs, configs and documents")
    schema.add_argument("--format", choices=("json", "yaml", "md"), default="json", help="json is JSON Schema")
    check = commands.add_parser("check", help="run a loss, or a package of losses, through the rules of the contract")
    _add_check_options(check)

    new = commands.add_parser("new", help="write the package of a new loss, ready to be tested, trained and published")
    new.add_argument("name", metavar="NAME", help="such as soft_clip, soft-clip or SoftClip")
    new.add_argument("--folder", metavar="FOLDER", help="a new or empty folder; by default skyrl-loss-NAME, here")
    new.add_argument(
        "--form", choices=("token", "scalar"), default="token", help="one loss for every token, or one reduced number"
    )

    signature = commands.add_parser("signature", help="what a loss does to a token, over the importance ratio")
    _add_signature_options(signature)

    for command in (show, schema, signature):
        command.add_argument("name", metavar="NAME", help="its name, or DISTRIBUTION:NAME")
    for command in (listing, show, check, new, signature):
        command.add_argument("--json", action="store_true", help="for programs")
    return parser


def _add_check_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "name", metavar="TARGET", help="NAME, DISTRIBUTION:NAME, module:Class, or ./path/to/package (not installed)"
    )
    command.add_argument(
        "--param", action="append", default=[], metavar="KEY=VALUE", help="a parameter of the loss; may be repeated"
    )
    command.add_argument(
        "--write-golden", action="store_true", help="write the losses' numbers into tests/golden.json of the package"
    )


def _add_signature_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--param", action="append", default=[], metavar="KEY=VALUE", help="a parameter of the loss; may be repeated"
    )
    command.add_argument("--svg", metavar="FILE", help="write a picture instead of the chart")
    command.add_argument(
        "--range", nargs=2, type=float, metavar=("LOW", "HIGH"), help="of ratios; by default 1/8 8, or close to 1"
    )
    command.add_argument("--length", type=int, default=4, metavar="TOKENS", help="of the sequence (default: 4)")
    command.add_argument(
        "--probability", type=float, default=0.1, metavar="P", help="of its tokens, under the old policy (default: 0.1)"
    )


def _list(policy: PluginPolicy, *, as_json: bool, long: bool) -> int:
    # Not the registry, which also knows how to load a loss: a listing need not pay for that.
    from skyrl_core.registry.loss_reference import LOSSES

    claims = LOSSES.claims(policy)
    if as_json:
        import json

        losses = [claim.record() for claim in claims]
        print(json.dumps({"schema_version": SCHEMA_VERSION, "losses": losses}, indent=2, ensure_ascii=False))
    elif not claims:
        print("no policy losses are installed")
    else:
        print("\n".join(_long(claims) if long else _short(claims)))
    return 0


def _short(claims: Sequence[Claim]) -> list[str]:
    rows = [(each.name, each.version or "-", each.distribution, each.status, each.summary) for each in claims]
    header = ("NAME", "VERSION", "DISTRIBUTION", "STATUS", "SUMMARY")
    return render_table(header, rows, [each.reason for each in claims], terminal_width())


def _long(claims: Sequence[Claim]) -> list[str]:
    lines = []
    for claim in claims:
        lines.append(f"{claim.name}  {claim.version or '-'}  {claim.distribution}  {claim.status}")
        for text in (claim.summary, claim.reason, claim.value):
            lines += indented(text, terminal_width())
    return lines
