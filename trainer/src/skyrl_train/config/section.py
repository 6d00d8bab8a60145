"""The base class of every section of the configuration."""

from typing import ClassVar

from pydantic import ConfigDict

from skyrl_core.parameters import StrictModel

EVERY = frozenset({"*"})
"""Every option of a section."""


class Section(StrictModel):
    """Base class of every section."""

    free_on_resume: ClassVar[frozenset[str]] = frozenset()
    """Options that a resumed run may change, because they do not change the course of training or have another check.
    An option that no set names changes the course: resuming with another value is refused unless it is accepted."""
    noted_on_resume: ClassVar[frozenset[str]] = frozenset()
    """Options that a resumed run may change, with a message."""

    # By alias, because an option such as `async` may be a Python keyword.
    model_config = ConfigDict(serialize_by_alias=True)
