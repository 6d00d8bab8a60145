"""The command that resumes a run: the same program and launcher, on the run folder."""

import os
import shlex
import sys
from pathlib import Path

from skyrl_train.ranks import exit_message as exit_message
from skyrl_train.ranks.ranks import Ranks
from skyrl_train.tracking.run_folder import RunFolder

MODULE = "skyrl_train.entrypoints.main_base"


def resume_command(folder: RunFolder, ranks: Ranks, *, python_call: bool = False) -> str:
    """The command, for a shell in the working folder of this process; the same command for each machine.

    If Python code called ``train`` it is such a call, because no command knows what that code defined.
    """
    if python_call:
        return f"skyrl_train.train(resume={str(folder.path)!r})"
    program = _program()
    if ranks.world_size == 1:
        start = ["python", *program] if program else ["skyrl", "train"]
    elif os.environ.get(exit_message.FILE):
        start = [*(["python", *program] if program else ["skyrl", "train"]), "--num-processes", str(ranks.world_size)]
    else:
        start = ["torchrun", *_machines(ranks), *(program or ["-m", MODULE])]
    return shlex.join([*start, "--config", str(folder.config_file), "--resume", str(folder.path)]).replace(
        f"'{NODE_RANK}'", f'"{NODE_RANK}"'
    )


def accepting(command: str, option: str) -> str:
    """The command with an option that accepts a change, such as ``accept_loss_change``."""
    if command.endswith(")"):
        return f"{command[:-1]}, {option}=True)"
    return f"{command} --{option.replace('_', '-')}"


NODE_RANK = "$NODE_RANK"


def _program() -> list[str]:
    """The user's script or module; empty for the `skyrl` command."""
    main = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None:
        name = spec.name.removesuffix(".__main__")
        return [] if name == MODULE else ["-m", name]
    return [file] if file and Path(file).suffix == ".py" else []


def _machines(ranks: Ranks) -> list[str]:
    options = ["--nproc-per-node", str(ranks.local_world_size)]
    machines = ranks.world_size // ranks.local_world_size
    if machines > 1:
        address, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
        options += ["--nnodes", str(machines), "--node-rank", NODE_RANK]
        options += ["--master-addr", address, "--master-port", port]
    return options
