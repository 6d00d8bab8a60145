"""List the installed plugins of every kind."""
# PYTHON_ARGCOMPLETE_OK

from collections.abc import Iterable, Sequence

from skyrl_core.cli.claim_list import status_cell
from skyrl_core.cli.command_parser import CommandParser
from skyrl_core.cli.json_output import print_json
from skyrl_core.cli.losses import add_policy_options
from skyrl_core.cli.table import render_table, terminal_width
from skyrl_core.discovery.installed import installed_distributions
from skyrl_core.discovery.plugin_group import GROUPS, PARAMS_GROUPS, Claim, PluginGroup, PluginPolicy
from skyrl_core.errors import did_you_mean
from skyrl_core.registry.loss_registry import LOSSES

SCHEMA_VERSION = 1
"""Version of the JSON output; increased when a key is removed or changes its meaning."""

EXAMPLES = (
    "skyrl plugins list",
    "skyrl plugins list --deny skyrl-loss-entropyreg  # what `plugins.deny` would do",
)

Row = tuple[str, Claim]
"""A group and a claim in it."""


def main(argv: Sequence[str]) -> int:
    """Run `skyrl plugins` and return the exit code."""
    arguments = _parser().parse_args(argv)
    rows = list(_rows(PluginPolicy(arguments.allow, arguments.deny)))
    if arguments.json:
        print_json(SCHEMA_VERSION, {"plugins": [{"group": group} | claim.record() for group, claim in rows]})
    else:
        print("\n".join(_tables(rows)) or "no plugins are installed")
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(prog="skyrl plugins", description=__doc__, examples=EXAMPLES)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    about = "list every installed plugin by group without importing any"
    listing = commands.add_parser("list", help=about, description=f"{about.capitalize()}.", examples=EXAMPLES)
    add_policy_options(listing)
    listing.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _rows(policy: PluginPolicy) -> Iterable[Row]:
    for group in GROUPS:
        plugins = LOSSES if group == LOSSES.group else PluginGroup(group, "plugin")
        yield from ((group, claim) for claim in plugins.claims(policy))
    declarations = (declaration for each in installed_distributions() for declaration in each.declarations)
    for group in sorted({declaration.group for declaration in declarations} - {*GROUPS, *PARAMS_GROUPS}):
        # An installed plugin in a misspelled group is listed nowhere else.
        reason = f"unknown group {group!r}{did_you_mean(group, (*GROUPS, *PARAMS_GROUPS))}"
        for claim in PluginGroup(group, "plugin").claims(policy):
            yield group, claim._replace(status="broken", reason=reason)


def _tables(rows: Sequence[Row]) -> list[str]:
    lines: list[str] = []
    for group in dict.fromkeys(group for group, _ in rows):
        claims = [claim for of, claim in rows if of == group]
        cells = [(each.name, each.version or "-", each.distribution, status_cell(each)) for each in claims]
        header = (group, "VERSION", "DISTRIBUTION", "STATUS")
        lines += [""] if lines else []
        lines += render_table(header, cells, [each.reason for each in claims], terminal_width())
    return lines
