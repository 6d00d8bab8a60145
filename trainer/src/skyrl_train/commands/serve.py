"""Start a rollout server: vLLM's own, with what a run needs of it."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from skyrl_train.config.load_config import resolve_run
from skyrl_train.environments.load_environment import load_environment


def main(argv: Sequence[str] | None = None) -> int:
    """Check the configuration and become the server; only an error returns.

    Raises:
        SkyrlError: the configuration does not fit, its model cannot be read, or vLLM is not installed.
    """
    arguments, extra = _parsed(sys.argv[1:] if argv is None else argv)
    # Whose engine it is, whatever the file says: that may be chosen on the command line of the run alone.
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
    """Our arguments, and those behind `--`, which are vLLM's."""
    own = list(argv)
    extra = own[own.index("--") + 1 :] if "--" in own else []
    own = own[: own.index("--")] if "--" in own else own
    return _parser().parse_intermixed_args(own), extra


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="skyrl serve",
        usage="%(prog)s [options] [OVERRIDE ...] [-- OPTION_OF_VLLM ...]",
        description="Start a vLLM server for `rollout.engine: vllm_server`; weights come from the trainer.",
    )
    add = parser.add_argument
    add("--config", type=Path, action="append", default=[], metavar="FILE", help="that of the run")
    add("--host", default="127.0.0.1", help="address to listen on; whoever reaches it can change the weights")
    add("--port", type=int, default=8000, help="its port")
    add("--dry-run", action="store_true", help="print the command and do not start it")
    add("overrides", nargs="*", metavar="OVERRIDE", help="any option of the run, such as model=tiny")
    return parser
