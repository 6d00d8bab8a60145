"""The version of the installed distribution skyrl-core."""

from skyrl_core.discovery.metadata_files import installed_version

__version__ = installed_version("skyrl-core") or ""
