"""Base classes of parameter schemas: pydantic models that reject unknown keys. Imports no torch."""

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, PrivateAttr

from skyrl_core.parameters.strict_model import StrictModel


class LossParams(StrictModel):
    """Base class of parameter schemas. Unknown keys, other types, infinities and NaN are errors.

    A subclass lists its parameters as fields with ranges and descriptions::

        class ClippedPGParams(LossParams):
            clip_low: float = Field(default=0.2, gt=0, lt=1, description="The ratio is clipped below 1 - clip_low.")

    Keep the subclass in a module that does not import torch and name it in the entry-point group
    ``skyrl.policy_loss_params``: then a wrong value is reported before torch is imported.
    """

    def get(self, name: str, default: Any = None) -> Any:
        """The parameter of this name, or the default if there is none; for losses in scalar form."""
        if name in type(self).model_fields:
            return getattr(self, name)
        return (self.__pydantic_extra__ or {}).get(name, default)


class _Names(set[str]):
    """Names that do not take part in the comparison of two instances."""

    __hash__ = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Names)


class OpenLossParams(LossParams):
    """The schema of a loss without one: accepts any key. Such a loss is listed as ``untyped``.

    It records which parameters are read, because a typo in the name of one can be noticed in no other way.
    """

    model_config = ConfigDict(extra="allow")

    _reads: _Names = PrivateAttr(default_factory=_Names)

    def get(self, name: str, default: Any = None) -> Any:
        """The parameter of this name, or the default if there is none."""
        self._reads.add(name)
        return super().get(name, default)

    @property
    def read_names(self) -> frozenset[str]:
        """The names that were read so far, given or not."""
        return frozenset(self._reads)

    def model_dump(self, **options: Any) -> dict[str, Any]:
        """All parameters; counts as reading each of them."""
        self._reads.update(self.__pydantic_extra__ or ())
        return super().model_dump(**options)

    def __iter__(self) -> Generator[tuple[str, Any], None, None]:
        for name, value in super().__iter__():
            self._reads.add(name)
            yield name, value

    if not TYPE_CHECKING:  # otherwise mypy would accept any attribute

        def __getattr__(self, name: str) -> Any:
            """A parameter as an attribute; pydantic keeps those without a field apart."""
            if not name.startswith("_"):
                self._reads.add(name)
            return super().__getattr__(name)
