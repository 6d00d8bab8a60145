"""List, explain and check the installed policy losses."""

import argparse
from collections.abc import Sequence

from skyrl_core.cli.json_output import print_json
from skyrl_core.cli.table import indented, render_table, terminal_width
from skyrl_core.discovery.plugin_group import Claim, PluginPolicy

SCHEMA_VERSION = 1
"""Version of the JSON output; increased when a key is removed or changes its meaning."""


def main(argv: Sequence[str]) -> int:
    """Run `skyrl losses` and return the exit code."""
    arguments = _parser().parse_args(argv)
    if arguments.command == "list":
        return _list(PluginPolicy(arguments.allow, arguments.deny), as_json=arguments.json, long=arguments.long)
    if arguments.command == "new":
        from skyrl_core.cli.new import new

        return new(arguments.name, arguments.folder, arguments.form, as_json=arguments.json)
    if arguments.command == "signature":
        from skyrl_core.cli import signature

        return signature.run(arguments)
    # The other commands import pydantic, which takes longer than the entire listing.
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

    listing = commands.add_parser("list", help="list every installed loss without importing any")
    listing.add_argument("--long", action="store_true", help="show full summaries and the class of each loss")
    add_policy_options(listing)

    show = commands.add_parser("show", help="show one loss: class, reference, parameters")
    schema = commands.add_parser("schema", help="print the parameters of one loss as JSON Schema, YAML or Markdown")
    schema.add_argument("--format", choices=("json", "yaml", "md"), default="json", help="default: json (JSON Schema)")
    check = commands.add_parser("check", help="check a loss, or a package of losses, against the rules of the contract")
    check.add_argument("name", metavar="TARGET", help="NAME, DISTRIBUTION:NAME, module:Class, or ./path/to/package")
    about = "write the numbers of the losses to the package's tests/golden.json"
    check.add_argument("--write-golden", action="store_true", help=about)

    new = commands.add_parser("new", help="create the package of a new loss, ready to test, train and publish")
    new.add_argument("name", metavar="NAME", help="name of the loss, such as soft_clip, soft-clip or SoftClip")
    new.add_argument("--folder", metavar="FOLDER", help="new or empty folder (default: ./skyrl-loss-NAME)")
    about = "whether the loss returns one value per token or one number (default: token)"
    new.add_argument("--form", choices=("token", "scalar"), default="token", help=about)

    signature = commands.add_parser("signature", help="plot how much a token weighs in the update, by importance ratio")
    _add_signature_options(signature)

    for command in (show, schema, signature):
        command.add_argument("name", metavar="NAME", help="name of the loss, or DISTRIBUTION:NAME")
    for command in (check, signature):
        about = "set a parameter of the loss; may be repeated"
        command.add_argument("--param", action="append", default=[], metavar="KEY=VALUE", help=about)
    for command in (listing, show, check, new, signature):
        command.add_argument("--json", action="store_true", help="print JSON")
    return parser


def add_policy_options(command: argparse.ArgumentParser) -> None:
    """Add --allow and --deny, which show the effect of plugins.allow and plugins.deny in a config."""
    about = "as plugins.allow: mark every other distribution as denied; may be repeated"
    command.add_argument("--allow", action="append", metavar="DISTRIBUTION", help=about)
    about = "as plugins.deny: mark this distribution as denied; may be repeated"
    command.add_argument("--deny", action="append", default=[], metavar="DISTRIBUTION", help=about)


def _add_signature_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--svg", metavar="FILE", help="write an SVG file instead of printing a chart")
    about = "range of ratios (default: 1/8 8, or narrower if all bounds are close to 1)"
    command.add_argument("--range", nargs=2, type=float, metavar=("LOW", "HIGH"), help=about)
    command.add_argument("--length", type=int, default=4, metavar="TOKENS", help="length of the sequence (default: 4)")
    about = "token probability under the old policy (default: 0.1)"
    command.add_argument("--probability", type=float, default=0.1, metavar="P", help=about)


def _list(policy: PluginPolicy, *, as_json: bool, long: bool) -> int:
    # Not loss_registry, which also loads losses and takes longer to import.
    from skyrl_core.registry.loss_reference import LOSSES

    claims = LOSSES.claims(policy)
    if as_json:
        print_json(SCHEMA_VERSION, {"losses": [claim.record() for claim in claims]})
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
