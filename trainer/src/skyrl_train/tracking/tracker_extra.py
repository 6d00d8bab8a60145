"""Packages that only one tracker needs: they are extras of skyrl-train."""

from importlib.util import find_spec

from skyrl_train.config.extras import install_extra
from skyrl_train.tracking.tracker import TrackerError


def require(package: str) -> None:
    """Check that the package of a tracker is installed. The tracker, the package and the extra have one name.

    Raises:
        TrackerError: it is missing; the message has the command that installs it.
    """
    if find_spec(package) is None:
        raise TrackerError(
            f"tracking.trackers names {package!r}, but the package {package} is not installed: run "
            f"`{install_extra(package)}`, or remove {package!r} from tracking.trackers."
        )
