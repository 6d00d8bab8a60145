"""Print every option of a run: type, default, range and description."""
# PYTHON_ARGCOMPLETE_OK

import json
import shutil
import sys
from collections.abc import Sequence
from typing import Any

from skyrl_core.cli import CommandParser
from skyrl_core.discovery import printable
from skyrl_core.errors import SkyrlError, nearest
from skyrl_train.config.option_reference import find_options, write_commented_yaml, write_markdown, write_table
from skyrl_train.config.options import all_options, all_sections
from skyrl_train.config.override_completion import complete_key
from skyrl_train.config.schema import RunConfig

EXAMPLES = (
    "skyrl config",
    "skyrl config trainer.optimizer       # one section",
    "skyrl config --yaml > run.yaml       # a configuration file with every default",
)
LOSS_HINT = """
The parameters of a loss or an estimator go into the block trainer.algorithm.<loss> or trainer.algorithm.<estimator>;
`skyrl losses schema NAME` lists those of a loss.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Print the options of a run.

    Raises:
        SkyrlError: no option starts with the prefix.
    """
    arguments = _parser().parse_args(argv)
    options = find_options(arguments.prefix)
    if not options:
        raise SkyrlError(_unknown_prefix(arguments.prefix))
    if arguments.json:
        print(json.dumps(_json_schema(arguments.prefix.strip(".")), indent=2))
    elif arguments.yaml:
        sys.stdout.write(write_commented_yaml(options))
    elif arguments.markdown:
        sys.stdout.write(write_markdown(options))
    else:
        sys.stdout.write(write_table(options, shutil.get_terminal_size().columns))
        if any(option.section == "trainer.algorithm" for option in options):
            sys.stdout.write(LOSS_HINT)
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(prog="skyrl config", description="Print every option of a run.", examples=EXAMPLES)
    prefix = parser.add_argument(
        "prefix",
        nargs="?",
        default="",
        metavar="KEY_PREFIX",
        help="print only these options, such as trainer.optimizer",
    )
    prefix.completer = complete_key  # type: ignore[attr-defined] # argcomplete reads it
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print a JSON Schema")
    form.add_argument(
        "--yaml", action="store_true", help="print a configuration file with every default and description"
    )
    form.add_argument("--markdown", action="store_true", help="print Markdown tables")
    return parser


def _json_schema(key: str) -> dict[str, Any]:
    """The JSON Schema of the run, of a section, or of the options that start with the key."""
    section = all_sections().get(key)
    if section is not None:
        dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
        return dialect | (RunConfig if section is RunConfig else section).model_json_schema()
    sections = all_sections()
    return {
        option.key: sections[option.section].model_json_schema()["properties"][option.key.rpartition(".")[2]]
        for option in find_options(key)
    }


def _unknown_prefix(prefix: str) -> str:
    known = [option.key for option in all_options()] + [section for section in all_sections() if section]
    match = nearest(prefix, known) or nearest(prefix.rpartition(".")[2], [key.rpartition(".")[2] for key in known])
    hint = f"did you mean {match}?" if match else "`skyrl config` without a prefix prints every option"
    return f"no option starts with {printable(prefix, escape=True)}; {hint}"
