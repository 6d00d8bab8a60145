"""The parameters of an installed loss or estimator as options: the block of trainer.algorithm with its name."""

from collections.abc import Iterator
from dataclasses import dataclass

from skyrl_core.parameters import LossParams
from skyrl_core.registry import ESTIMATORS, LOSSES, ResolvedEstimator, ResolvedLoss
from skyrl_train.config.options import Option, options_of

SECTION = "trainer.algorithm"


@dataclass(frozen=True, kw_only=True)
class Block:
    """The parameters of one loss or estimator."""

    name: str
    kind: str
    takes_schedules: bool
    schema: type[LossParams]

    @property
    def key(self) -> str:
        """The dotted key of the block."""
        return f"{SECTION}.{self.name}"

    @property
    def options(self) -> list[Option]:
        """One option for each parameter."""
        return list(options_of(self.schema, self.key))


def find_block(key: str) -> Block | None:
    """The block that a key names, or the block of one of its options; also by the name of its loss or estimator.

    Raises:
        PluginConflictError, PluginLoadError: the loss or the estimator cannot be used.
    """
    name = key.removeprefix(f"{SECTION}.").partition(".")[0]
    if not key.startswith(f"{SECTION}.") and name != key:
        return None
    for group, kind in ((LOSSES, ResolvedLoss), (ESTIMATORS, ResolvedEstimator)):
        if any(row.name == name for row in group.rows()):
            plugin = kind.find(name)
            schema: type[LossParams] = plugin.schema or plugin.plugin.Params
            return Block(name=name, kind=group.kind, takes_schedules=kind.takes_schedules, schema=schema)
    return None


def block_keys() -> Iterator[str]:
    """The key of the block of every installed loss and estimator."""
    for group in (LOSSES, ESTIMATORS):
        yield from (f"{SECTION}.{row.name}" for row in group.rows())
