"""Where a distribution was installed from: a folder, a commit or a URL, as pip records it (PEP 610)."""

import json
from typing import Any, NamedTuple

from skyrl_core.discovery.installed import MAX_NAME, MAX_VALUE
from skyrl_core.discovery.metadata_files import find_distribution, read_metadata
from skyrl_core.printable_text import shortened


class Origin(NamedTuple):
    """The source of an install that did not come from a package index."""

    url: str
    editable: bool
    """Whether imports use the files of that folder, so that edits take effect without reinstalling."""
    vcs: str
    """Such as ``git``; empty for a folder or a file."""
    commit: str

    def __str__(self) -> str:
        """As a requirement for pip."""
        return f"{self.vcs}+{self.url}@{self.commit}" if self.vcs else self.url


def origin_of(distribution: str) -> Origin | None:
    """Where a distribution was installed from; None for an index, if unknown, or if it is missing."""
    installed = find_distribution(distribution)
    if installed is None:
        return None
    try:
        found: Any = json.loads(read_metadata(installed, "direct_url.json").data)
        vcs = found.get("vcs_info")
        return Origin(
            url=shortened(found["url"], MAX_VALUE),
            editable=found.get("dir_info", {}).get("editable", False) is True,
            vcs=shortened(vcs["vcs"], MAX_NAME) if vcs else "",
            commit=shortened(vcs["commit_id"], MAX_NAME) if vcs else "",
        )
    except Exception:  # noqa: BLE001 - direct_url.json may contain anything and must not stop a command
        return None
