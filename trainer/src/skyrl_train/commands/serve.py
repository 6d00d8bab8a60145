"""Start a vLLM server with the settings that a run needs."""
# PYTHON_ARGCOMPLETE_OK

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from skyrl_core.cli import CommandParser
from skyrl_core.value_text import show_value
from skyrl_train.config.load_config import resolve_run
from skyrl_train.config.override_completion import complete_override
from skyrl_train.environments.load_environment import load_environment

EXAMPLES = (
    "skyrl serve --config run.yaml",
    "skyrl serve model=Qwen/Qwen3-0.6B --port 8001 -- --gpu-memory-utilization 0.8",
)

LAST_PORT = 65535


def main(argv: Sequence[str] | None = None) -> int:
    """Check the configuration and replace this process by the server; returns only if that fails.

    Raises:
        SkyrlError: the configuration is invalid, its model cannot be read, or vLLM is not installed.
    """
    arguments, extra = _parsed(sys.argv[1:] if argv is None else argv)
    # Whatever the file says: the run may select the rollout engine on its command line only.
    overrides = [*arguments.overrides, "rollout.engine=vllm_server"]
    run = resolve_run(load_environment, files=arguments.config, overrides=overrides)
    from skyrl_train.policy.model_loading import resolve_model
    from skyrl_train.rollout.vllm_server.serve_command import become_server, server_command

    model = resolve_model(run.config.model)
    command = server_command(run.config, model, host=arguments.host, port=arguments.port, extra=extra)
    if arguments.dry_run:
        print(shlex.join(command))
        return 0
    become_server(command)
    return 1


def _parsed(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The arguments of `skyrl serve`, and those after `--`, which are passed to vLLM."""
    arguments = list(argv)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return _parser().parse_intermixed_args(arguments[:end]), arguments[end + 1 :]


def _port(text: str) -> int:
    if not text.isdecimal() or len(text) > len(str(LAST_PORT)) or not 1 <= int(text) <= LAST_PORT:
        raise argparse.ArgumentTypeError(f"{show_value(text)} is not a port: give a number from 1 to {LAST_PORT}")
    return int(text)


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="skyrl serve",
        usage="%(prog)s [options] [OVERRIDE ...] [-- OPTION_OF_VLLM ...]",
        description="Start a vLLM server for `rollout.engine: vllm_server`; the trainer sends it the weights.",
        examples=EXAMPLES,
    )
    add = parser.add_argument
    add("--config", type=Path, action="append", default=[], metavar="FILE", help="a configuration file of the run")
    add("--host", default="127.0.0.1", help="address to listen on; anyone who can reach it can change the weights")
    add("--port", type=_port, default=8000, help="port to listen on")
    add("--dry-run", action="store_true", help="print the vLLM command and exit")
    overrides = add("overrides", nargs="*", metavar="OVERRIDE", help="any option of the run, such as model=tiny")
    overrides.completer = complete_override  # type: ignore[attr-defined] # argcomplete reads it
    return parser
