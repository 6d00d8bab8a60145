"""Refuses to launch processes that would lack a plugin, because only the calling process has it."""

from collections.abc import Iterator

from skyrl_core.errors import SkyrlError
from skyrl_train.config.plugin_check import ENVIRONMENT_GROUP
from skyrl_train.config.resolved import ResolvedRun
from skyrl_train.ranks.launch import OPTION, calling_script


def check_launchable(run: ResolvedRun, processes: int) -> None:
    """Check that the processes of a run will have its plugins; a script that is launched registers them again.

    Raises:
        SkyrlError: the loss, the estimator or the environment is registered in this process only.
    """
    if calling_script() is not None:
        return
    for kind, name in _registered(run):
        raise SkyrlError(
            f"{OPTION} {processes}: {kind} {name!r} exists only in this process, and the {processes} processes that "
            f"would be started cannot import it: write it into a script that registers it and calls "
            f"`skyrl_train.main()`, and run `python SCRIPT.py {OPTION} {processes}`; or install it as a package"
        )


def _registered(run: ResolvedRun) -> Iterator[tuple[str, str]]:
    """The plugins of the run that were registered in this process."""
    for plugin in (run.loss, run.estimator):
        group, claim = plugin.group, plugin.claim
        if claim in group.registered:
            yield group.kind, claim.name
    kind = type(run.environment)
    names = [claim.name for claim in ENVIRONMENT_GROUP.registered if ENVIRONMENT_GROUP.load_claim(claim) is kind]
    yield from (("environment", name) for name in names)
