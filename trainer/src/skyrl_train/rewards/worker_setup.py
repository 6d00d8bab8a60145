"""The first message to a reward worker: the environments, and the script in which their classes may be defined."""

import os
import pickle
import sys
from collections.abc import Mapping
from typing import Any

from skyrl_core.discovery import Guard, PluginCall
from skyrl_core.errors import PluginLoadError
from skyrl_train.environments.environment import Environment
from skyrl_train.rewards.worker_main import Setup

PICKLED = "define its class at the top level of a module or script, and keep plain data in its instances"


def worker_setup(environments: Mapping[str, Environment], deadline: float, weights: Mapping[str, float]) -> Setup:
    """The message that starts a worker of this process.

    Raises:
        PluginLoadError: an environment cannot be sent to another process.
    """
    main: Any = sys.modules["__main__"]
    module = main.__spec__.name if getattr(main, "__spec__", None) else None
    script = getattr(main, "__file__", None)
    if script is not None and not os.path.isfile(script):
        script = None  # such as <stdin>
    for name, environment in environments.items():
        kind = f"environment {name!r} (class {type(environment).__qualname__})"
        if type(environment).__module__ == "__main__" and not (module or script):
            raise PluginLoadError(
                f"{kind} was defined at a prompt, where reward workers cannot import it: move the class to a .py file "
                "and import it from there"
            )
        guard, failed = Guard(kind, type(environment).__module__), "cannot be sent to the reward workers"
        with PluginCall(guard, failed, kind=PluginLoadError, advice=lambda _: PICKLED):
            pickle.dumps(environment)
    return Setup(
        environments=pickle.dumps(dict(environments), protocol=pickle.HIGHEST_PROTOCOL),
        script=os.path.abspath(script) if script else None,
        module=module,
        deadline=deadline,
        weights=weights,
    )
