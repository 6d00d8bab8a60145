"""Which loss exactly was used: what a run writes down, so that another one can be compared with it."""

from pathlib import Path
from typing import Any, NamedTuple

from skyrl_core.discovery.module_source import files_sha256, package_sha256
from skyrl_core.discovery.plugin_group import Claim
from skyrl_core.errors import PluginLoadError


class LossIdentity(NamedTuple):
    """What a run writes down about its loss. Two runs with equal identities computed the same loss."""

    distribution: str
    """``script`` for a loss that was registered in this process."""
    name: str
    version: str
    semantics_version: int | None
    """None where the loss declares none."""
    value: str
    """``module:Class``."""
    files_sha256: str
    """Over the Python files of its package, or over the script; empty where it was typed into a prompt."""
    params: dict[str, Any]
    """Resolved, with defaults, as JSON values; schedules as they were given."""
    components: "tuple[LossIdentity, ...]" = ()
    """The losses that it is composed of, with the parameters of the first step."""

    def record(self) -> dict[str, Any]:
        """For run.json and checkpoints: every field as JSON has it, and the identity as text under ``id``."""
        return {"id": str(self), **self._asdict(), "components": [part.record() for part in self.components]}

    def __str__(self) -> str:
        semantics = "" if self.semantics_version is None else f"@{self.semantics_version}"
        return f"{self.distribution}:{self.name}{semantics}"


def package_files_sha256(claim: Claim) -> str:
    """SHA-256 over the Python files of the package that the loss is in.

    Raises:
        PluginLoadError: they cannot be read.
    """
    try:
        return package_sha256(claim.module)
    except OSError as error:
        raise PluginLoadError(f"the files of policy loss {claim} cannot be read: {error}") from error


def script_sha256(source: Any) -> str:
    """SHA-256 over the file that a class or function is written in; empty where it was typed into a prompt."""
    import inspect  # costs milliseconds, which a listing need not pay

    try:
        file = inspect.getsourcefile(source)
    except (TypeError, OSError):
        return ""
    return files_sha256({"script": Path(file)}) if file and Path(file).is_file() else ""
