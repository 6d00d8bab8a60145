"""The identity of a loss, which a run records so that other runs can be compared with it."""

from pathlib import Path
from typing import Any, NamedTuple

from skyrl_core.discovery.module_source import files_sha256, package_sha256
from skyrl_core.discovery.plugin_group import Claim
from skyrl_core.errors import PluginLoadError


class LossIdentity(NamedTuple):
    """The record of a loss. Two runs with equal identities computed the same loss."""

    distribution: str
    """``script`` for a loss that was registered in this process."""
    name: str
    version: str
    semantics_version: int | None
    """None if the loss declares none."""
    value: str
    """``module:Class``."""
    files_sha256: str
    """Of the Python files of its package, or of the script; of its code if it was typed into a prompt or notebook."""
    params: dict[str, Any]
    """Resolved, with defaults, as JSON values; schedules as given."""
    components: "tuple[LossIdentity, ...]" = ()
    """The losses that it combines, with the parameters of the first step."""

    def record(self) -> dict[str, Any]:
        """Every field as JSON values without secrets, and the identity as text under ``id``, for files."""
        from skyrl_core.redaction import redacted  # takes milliseconds that a listing does not need

        parts = [part.record() for part in self.components]
        return {"id": str(self), **self._asdict(), "params": redacted(self.params), "components": parts}

    def __str__(self) -> str:
        semantics = "" if self.semantics_version is None else f"@{self.semantics_version}"
        return f"{self.distribution}:{self.name}{semantics}"


def package_files_sha256(claim: Claim) -> str:
    """SHA-256 over the Python files of the package that contains the loss.

    Raises:
        PluginLoadError: they cannot be read.
    """
    try:
        return package_sha256(claim.module)
    except OSError as error:
        raise PluginLoadError(f"the files of policy loss {claim} cannot be read: {error}") from error


def script_sha256(source: Any) -> str:
    """SHA-256 over the file that defines a class or function, or over its code if it is in no file."""
    import inspect  # takes milliseconds that a listing does not need

    from skyrl_core.registry.code_hash import code_sha256, is_in_files

    try:
        file = inspect.getsourcefile(source)
    except (TypeError, OSError):
        file = None
    if file and Path(file).is_file() and is_in_files(source):
        return files_sha256({"script": Path(file)})
    return code_sha256(source)
