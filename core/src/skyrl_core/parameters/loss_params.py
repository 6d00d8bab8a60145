"""Base classes of parameter schemas: pydantic models that reject unknown keys. Imports no torch."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class LossParams(BaseModel):
    """Base class of parameter schemas. Unknown keys, infinities and NaN are errors; instances are frozen.

    A subclass lists its parameters as fields with ranges and descriptions::

        class ClippedPGParams(LossParams):
            clip_low: float = Field(default=0.2, gt=0, lt=1, description="The ratio is clipped below 1 - clip_low.")

    Keep the subclass in a module that does not import torch and name it in the entry-point group
    ``skyrl.policy_loss_params``: then a wrong value is reported before torch is imported.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)

    def get(self, name: str, default: Any = None) -> Any:
        """The parameter of this name, or the default if there is none; for losses in scalar form."""
        if name in type(self).model_fields:
            return getattr(self, name)
        return (self.model_extra or {}).get(name, default)


class OpenLossParams(LossParams):
    """The schema of a loss without one: accepts any key. Such a loss is listed as ``untyped``."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)
