"""The base class of every section of the configuration."""

from pydantic import ConfigDict

from skyrl_core.parameters import StrictModel


class Section(StrictModel):
    """Base class of every section."""

    # By alias, because an option such as `async` may be a Python keyword.
    model_config = ConfigDict(serialize_by_alias=True)
