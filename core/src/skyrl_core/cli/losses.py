"""List, explain and check the installed policy losses."""
# PYTHON_ARGCOMPLETE_OK

import argparse
from collections.abc import Sequence

from skyrl_core.cli.claim_list import by_group, in_full
from skyrl_core.cli.command_parser import CommandParser
from skyrl_core.cli.completion import complete_loss
from skyrl_core.cli.json_output import print_json
from skyrl_core.cli.table import terminal_width
from skyrl_core.discovery.plugin_group import PluginPolicy
from skyrl_core.lookup import checked_path

SCHEMA_VERSION = 1
"""Version of the JSON output; increased when a key is removed or changes its meaning."""
NAMES = "name of the loss, or DISTRIBUTION:NAME"
TARGETS = "NAME, DISTRIBUTION:NAME, module:Class, or ./path/to/package"
EXAMPLES = (
    "skyrl losses list",
    "skyrl losses list --long                # every summary in full",
    "skyrl losses show gspo",
    "skyrl losses schema gspo --format yaml  # a block for a configuration file",
    "skyrl losses check gspo --param clip_low=0.0003",
    "skyrl losses check ./skyrl-loss-mine    # a package that is not installed",
    "skyrl losses new soft_clip",
    "skyrl losses signature gspo --svg gspo.svg",
)
"""The first examples of each subcommand, in the order of its help."""


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


def _parser() -> CommandParser:
    parser = CommandParser(prog="skyrl losses", description=__doc__, examples=EXAMPLES)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, about: str) -> CommandParser:
        return commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.", examples=_of(name))

    listing = command("list", "list every installed loss without importing any")
    listing.add_argument("--long", action="store_true", help="show full summaries and the class of each loss")
    add_policy_options(listing)

    show = command("show", "show one loss: class, reference, parameters")
    schema = command("schema", "print the parameters of one loss as JSON Schema, YAML or Markdown")
    schema.add_argument("--format", choices=("json", "yaml", "md"), default="json", help="default: json (JSON Schema)")
    check = command("check", "check a loss, or a package of losses, against the rules of the contract")
    target = check.add_argument("name", metavar="TARGET", help=TARGETS)
    about = "write the numbers of the losses to the package's tests/golden.json"
    check.add_argument("--write-golden", action="store_true", help=about)

    new = command("new", "create the package of a new loss, ready to test, train and publish")
    new.add_argument("name", metavar="NAME", help="name of the loss, such as soft_clip, soft-clip or SoftClip")
    new.add_argument(
        "--folder", type=checked_path, metavar="FOLDER", help="new or empty folder (default: ./skyrl-loss-NAME)"
    )
    about = "whether the loss returns one value per token or one number (default: token)"
    new.add_argument("--form", choices=("token", "scalar"), default="token", help=about)

    signature = command("signature", "plot how much a token weighs in the update, by importance ratio")
    _add_signature_options(signature)

    names = [each.add_argument("name", metavar="NAME", help=NAMES) for each in (show, schema, signature)]
    for name in (target, *names):
        name.completer = complete_loss  # type: ignore[attr-defined] # argcomplete reads it
    for each in (check, signature):
        about = "set a parameter of the loss; may be repeated"
        each.add_argument("--param", action="append", default=[], metavar="KEY=VALUE", help=about)
    for each in (listing, show, check, new, signature):
        each.add_argument("--json", action="store_true", help="print JSON")
    return parser


def subcommands() -> tuple[str, ...]:
    """The names of the subcommands, to suggest one that was typed without `losses`."""
    return tuple({example.split()[2]: None for example in EXAMPLES})


def _of(name: str) -> list[str]:
    return [example for example in EXAMPLES if example.split()[2] == name]


def add_policy_options(command: argparse.ArgumentParser) -> None:
    """Add --allow and --deny, which show the effect of plugins.allow and plugins.deny in a config."""
    about = "as plugins.allow: mark every other distribution as denied; may be repeated"
    command.add_argument("--allow", action="append", metavar="DISTRIBUTION", help=about)
    about = "as plugins.deny: mark this distribution as denied; may be repeated"
    command.add_argument("--deny", action="append", default=[], metavar="DISTRIBUTION", help=about)


def _add_signature_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--svg", type=checked_path, metavar="FILE", help="write an SVG file instead of printing a chart"
    )
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
        width = terminal_width()
        print("\n".join(in_full(claims, width) if long else by_group(claims, width)))
    return 0
