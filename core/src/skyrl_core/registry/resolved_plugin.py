"""A resolved plugin: found once, its parameters validated once, then passed on. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar, Generic, Self, TypeVar

from skyrl_core.discovery.plugin_call import Guard
from skyrl_core.discovery.plugin_class import construct
from skyrl_core.discovery.plugin_group import ALLOW_ALL, Claim, PluginGroup, PluginPolicy
from skyrl_core.errors import PluginLoadError
from skyrl_core.parameters.loss_params import LossParams, OpenLossParams
from skyrl_core.parameters.parameter_plan import ParamPlan
from skyrl_core.value_text import show_value

Base = TypeVar("Base")
Values = Mapping[str, Any] | LossParams | None


class ResolvedPlugin(Generic[Base]):
    """The claim, parameters and class of a plugin. Each is computed on first read and then kept.

    Every attribute raises PluginLoadError for a schema or class that cannot be imported or is not what its entry point
    promises, and those that validate raise InvalidParamsError with all problems.
    """

    group: ClassVar[PluginGroup]
    takes_schedules: ClassVar[bool] = False

    def __init__(self, claim: Claim, values: Values = None, policy: PluginPolicy = ALLOW_ALL) -> None:
        """``claim`` comes from ``group.find``; ``values`` are the given parameters, None the defaults."""
        self.claim, self._values, self._policy = claim, dict(values or {}), policy

    @classmethod
    def find(cls, spec: str, values: Values = None, policy: PluginPolicy = ALLOW_ALL) -> Self:
        """The plugin that a spec names. Raises as ``PluginGroup.find``; imports nothing."""
        return cls(cls.group.find(spec, policy), values, policy)

    @cached_property
    def guard(self) -> Guard:
        """The guard for calls of the plugin's code."""
        return self.group.guard(self.claim)

    @cached_property
    def schema(self) -> type[LossParams] | None:
        """The parameter schema, imported without the plugin; None if only its class may declare one."""
        schema = self.group.schema(self.claim)
        if schema is None or (isinstance(schema, type) and issubclass(schema, LossParams)):
            return schema
        what, found = f"{self.group.kind} {self.claim}", show_value(schema)
        raise PluginLoadError(f"the parameter schema of {what} is {found}, not a subclass of LossParams")

    @cached_property
    def plan(self) -> ParamPlan[LossParams]:
        """The parameters over a run, validated without importing the plugin; unchecked without a schema."""
        return self._planned(self.schema or OpenLossParams)

    @cached_property
    def params(self) -> dict[str, Any]:
        """The parameters of ``plan`` as JSON values, with defaults."""
        return self.plan.document()

    @cached_property
    def plugin(self) -> type[Base]:
        """The class, imported and checked."""
        return self._load()

    @cached_property
    def class_plan(self) -> ParamPlan[LossParams]:
        """``plan``, or a plan for the schema of the class if that is a different one."""
        plugin: Any = self.plugin
        return self.plan if plugin.Params is self.schema else self._planned(plugin.Params)

    def build(self, params: LossParams) -> Base:
        """An instance with parameters of ``class_plan``."""
        return construct(self.guard, self.plugin, params)

    def _load(self) -> type[Base]:
        raise NotImplementedError

    def _planned(self, schema: type[LossParams]) -> ParamPlan[LossParams]:
        what, context = f"{self.group.kind} {self.claim}", {"policy": self._policy}
        return ParamPlan(schema, self._values, what, context, scheduled=self.takes_schedules)
