"""The version of the installed distribution skyrl-core."""

from importlib_metadata import version

__version__ = version("skyrl-core")
