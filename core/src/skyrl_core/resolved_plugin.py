"""A plugin that was resolved: found once, its parameters validated once, then carried. Imports no torch."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar, Generic, Self, TypeVar

from skyrl_core.entry_points import ALLOW_ALL, Claim, PluginGroup, PluginPolicy
from skyrl_core.errors import PluginLoadError
from skyrl_core.param_plan import ParamPlan
from skyrl_core.params import LossParams, OpenLossParams
from skyrl_core.plugin_class import construct

Base = TypeVar("Base")


class ResolvedPlugin(Generic[Base]):
    """The claim, parameters and class of a plugin. Each is computed when it is first read, and then kept."""

    group: ClassVar[PluginGroup]
    takes_schedules: ClassVar[bool] = False

    def __init__(
        self, claim: Claim, values: Mapping[str, Any] | LossParams | None = None, policy: PluginPolicy = ALLOW_ALL
    ) -> None:
        """``claim`` comes from ``group.find``; ``values`` are the parameters as given, None takes the defaults."""
        self.claim = claim
        self._values = dict(values or {})
        self._policy = policy

    @classmethod
    def find(
        cls, reference: str, values: Mapping[str, Any] | LossParams | None = None, policy: PluginPolicy = ALLOW_ALL
    ) -> Self:
        """The plugin that a reference means. Imports nothing.

        Raises:
            UnknownPluginError, PluginConflictError, PluginLoadError: as ``PluginGroup.find``.
        """
        return cls(cls.group.find(reference, policy), values, policy)

    @cached_property
    def schema(self) -> type[LossParams] | None:
        """The parameter schema, imported without the plugin; None if only its class knows it.

        Raises:
            PluginLoadError: it cannot be imported or is no LossParams.
        """
        schema = self.group.schema(self.claim)
        if schema is None or (isinstance(schema, type) and issubclass(schema, LossParams)):
            return schema
        raise PluginLoadError(
            f"the parameter schema of {self._subject} is {reprlib.repr(schema)}, not a subclass of LossParams"
        )

    @cached_property
    def plan(self) -> ParamPlan[LossParams]:
        """The parameters over a run, checked without the plugin; without a schema, any values.

        Raises:
            InvalidParamsError: values do not fit; ``problems`` has all of them.
            PluginLoadError: as ``schema``.
        """
        return self._planned(self.schema or OpenLossParams)

    @cached_property
    def params(self) -> dict[str, Any]:
        """The parameters of ``plan`` as JSON values, with defaults. Raises as ``plan``."""
        return self.plan.document()

    @cached_property
    def plugin(self) -> type[Base]:
        """The class, imported and found to be what its entry point promises.

        Raises:
            PluginLoadError: it is not, or its import fails.
        """
        return self._load()

    @cached_property
    def class_plan(self) -> ParamPlan[LossParams]:
        """``plan``, or one against the schema of the class where that is another. Raises as ``plan`` and ``plugin``."""
        plugin: Any = self.plugin
        return self.plan if plugin.Params is self.schema else self._planned(plugin.Params)

    def build(self, params: LossParams) -> Base:
        """An instance with parameters of ``class_plan``.

        Raises:
            PluginLoadError: as ``plugin``, or its constructor fails.
        """
        return construct(self.group, self.plugin, params, self.claim)

    def _load(self) -> type[Base]:
        raise NotImplementedError

    @property
    def _subject(self) -> str:
        return f"{self.group.kind} {self.claim}"

    def _planned(self, schema: type[LossParams]) -> ParamPlan[LossParams]:
        context = {"policy": self._policy}
        return ParamPlan(schema, self._values, self._subject, context, takes_schedules=self.takes_schedules)
