"""Print every option of a run: type, default, range and description."""
# PYTHON_ARGCOMPLETE_OK

import json
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from skyrl_core.cli import CommandParser, render_table, terminal_width
from skyrl_core.discovery import printable
from skyrl_core.errors import SkyrlError, nearest
from skyrl_core.parameters import json_schema
from skyrl_train.config.block_options import SECTION, Block, block_keys, find_block
from skyrl_train.config.option_reference import (
    find_options,
    search_options,
    write_commented_yaml,
    write_markdown,
    write_table,
)
from skyrl_train.config.options import Option, all_options, all_sections
from skyrl_train.config.override_completion import complete_key
from skyrl_train.config.presets import all_presets

EXAMPLES = (
    "skyrl config",
    "skyrl config trainer.optimizer       # one section",
    "skyrl config trainer.algorithm.gspo  # the parameters of a loss",
    "skyrl config memory                  # options whose key or description has this word",
    "skyrl config --presets",
    "skyrl config --yaml > run.yaml       # a configuration file with every default",
)
LOSS_HINT = """
The parameters of a loss or an estimator go into the block trainer.algorithm.<loss> or trainer.algorithm.<estimator>;
`skyrl config trainer.algorithm.NAME` lists them.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Print the options of a run, or the presets.

    Raises:
        SkyrlError: no option starts with the key or contains the words.
    """
    arguments = _parser().parse_args(argv)
    if arguments.presets:
        rows = [(preset.name, preset.summary) for preset in all_presets()]
        print("\n".join(render_table(("PRESET", "SUMMARY"), rows, [""] * len(rows), terminal_width())))
        return 0
    key = " ".join(arguments.words).strip(".")
    options, block = _found(arguments.words)
    if arguments.json:
        print(json.dumps(_json_schema(key, options, block), indent=2))
    elif block and not options:
        print(f"The {block.kind} {block.name} has no parameters.")
    elif arguments.yaml:
        sys.stdout.write(write_commented_yaml(options))
    elif arguments.markdown:
        sys.stdout.write(write_markdown(options))
    else:
        sys.stdout.write(write_table(options, shutil.get_terminal_size().columns))
        sys.stdout.write(_hint(arguments.words, options, block))
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(prog="skyrl config", description="Print every option of a run.", examples=EXAMPLES)
    words = parser.add_argument(
        "words",
        nargs="*",
        metavar="KEY_OR_WORD",
        help="print only these options: the start of a key, such as trainer.optimizer; the block of a loss, such as "
        "trainer.algorithm.gspo; or words to search for, such as memory",
    )
    words.completer = complete_key  # type: ignore[attr-defined] # argcomplete reads it
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print a JSON Schema")
    form.add_argument(
        "--yaml", action="store_true", help="print a configuration file with every default and description"
    )
    form.add_argument("--markdown", action="store_true", help="print Markdown tables")
    form.add_argument("--presets", action="store_true", help="print the configurations that --config takes by name")
    return parser


def _found(words: Sequence[str]) -> tuple[list[Option], Block | None]:
    """The options that start with a key or contain the words, and the block of a loss or an estimator, if it is one."""
    key = " ".join(words).strip(".")
    if options := find_options(key):
        return options, None
    if block := find_block(key):
        options = [option for option in block.options if option.key.startswith(key) or "." not in key]
        if options or key in (block.key, block.name):
            return options, block
        raise SkyrlError(_unknown_parameter(key.removeprefix(f"{block.key}."), block))
    if options := search_options(words):
        return options, None
    raise SkyrlError(_unknown(key))


def _unknown_parameter(name: str, block: Block) -> str:
    match = nearest(name, [option.key.rpartition(".")[2] for option in block.options])
    hint = f"did you mean {match}?" if match else f"`skyrl config {block.key}` lists its parameters"
    return f"{block.kind} {block.name} has no parameter {printable(name, escape=True)}; {hint}"


def _hint(words: Sequence[str], options: Sequence[Option], block: Block | None) -> str:
    """The lines below the table."""
    if block:
        has_schedules = block.takes_schedules and any(option.type.startswith("number") for option in options)
        return "\nA number may also be a schedule over optimizer steps.\n" if has_schedules else ""
    others = [option.key for option in search_options(words) if option not in options]
    if others and " ".join(words).strip(".") not in all_sections():
        text = f"{' '.join(words)} also appears in: {', '.join(others)}"
        return "\n" + textwrap.fill(text, shutil.get_terminal_size().columns) + "\n"
    return LOSS_HINT if any(option.section == SECTION for option in options) else ""


def _json_schema(key: str, options: Sequence[Option], block: Block | None) -> dict[str, Any]:
    """The JSON Schema of the run, of a section, of a block, or of each of the options."""
    sections = all_sections()
    schema = block.schema if block and key in (block.key, block.name) else sections.get(key)
    if schema is not None:
        return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | json_schema(schema)
    return {
        option.key: json_schema(block.schema if block else sections[option.section])["properties"][
            option.key.rpartition(".")[2]
        ]
        for option in options
    }


def _unknown(key: str) -> str:
    """The error for a key that nothing has; the suggestion stays in the section of the key, if there is one."""
    section, _, name = key.rpartition(".")
    known = [*(option.key for option in all_options()), *all_sections(), *block_keys()]
    inside = {each.rpartition(".")[2]: each for each in known if each.rpartition(".")[0] == section}
    match = inside.get(nearest(name, inside) or "") or nearest(key, known)
    hint = f"did you mean {match}?" if match else "`skyrl config` prints every option"
    return f"no option starts with or contains {printable(key, escape=True)}; {hint}"
