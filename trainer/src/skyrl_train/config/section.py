"""The base class of every section of the configuration."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

EVERY = frozenset({"*"})
"""Every option of a section."""


class Section(BaseModel):
    """Base class of every section: unknown keys, infinities and NaN are errors."""

    free_on_resume: ClassVar[frozenset[str]] = frozenset()
    """Options that a resumed run may change, because they do not change the course of training or have another check.
    An option that no set names changes the course: resuming with another value is refused unless it is accepted."""
    noted_on_resume: ClassVar[frozenset[str]] = frozenset()
    """Options that a resumed run may change, with a message."""

    # By alias, because an option such as `async` may be a Python keyword.
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True, serialize_by_alias=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_as_number(cls, value: Any, info: ValidationInfo) -> Any:
        # Python treats True as 1: `steps: true` would train one step.
        field = cls.model_fields.get(info.field_name or "")
        if isinstance(value, bool) and field is not None and field.annotation is not bool:
            raise ValueError("must not be true or false")
        return value
