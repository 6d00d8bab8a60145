"""Plugins by name: every claim to a name in installed metadata, found without importing any plugin."""

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import redirect_stdout
from importlib import import_module

from skyrl_core.discovery.allow_deny import ALLOW_ALL as ALLOW_ALL
from skyrl_core.discovery.allow_deny import PluginPolicy as PluginPolicy
from skyrl_core.discovery.claim import NAME_RULE, Status, defect, is_name, is_value, owner, repair
from skyrl_core.discovery.claim import Claim as Claim
from skyrl_core.discovery.claim import qualified as qualified
from skyrl_core.discovery.core_requirement import unmet_core_requirement
from skyrl_core.discovery.install_command import command_for_loss, pip_install, requirement_with
from skyrl_core.discovery.installed import (
    MAX_VALUE,
    SCRIPT,
    Declaration,
    InstalledDistribution,
    fold,
    installed_distributions,
)
from skyrl_core.discovery.module_source import docstring_line, source_file
from skyrl_core.discovery.plugin_call import Guard, PluginCall
from skyrl_core.discovery.registration import Registered, is_same_place, value_of
from skyrl_core.errors import PluginConflictError, PluginLoadError, UnknownPluginError, did_you_mean
from skyrl_core.printable_text import shortened

POLICY_LOSSES = "skyrl.policy_losses"
POLICY_LOSS_PARAMS = "skyrl.policy_loss_params"
ADVANTAGE_ESTIMATORS = "skyrl.advantage_estimators"
ADVANTAGE_ESTIMATOR_PARAMS = "skyrl.advantage_estimator_params"
ENVIRONMENTS = "skyrl.environments"
ROLLOUT_ENGINES = "skyrl.rollout_engines"
TRACKERS = "skyrl.trackers"
COMMANDS = "skyrl.commands"
OBSERVERS = "skyrl.plugins"

GROUPS = (
    POLICY_LOSSES,
    ADVANTAGE_ESTIMATORS,
    ENVIRONMENTS,
    ROLLOUT_ENGINES,
    TRACKERS,
    COMMANDS,
    OBSERVERS,
)
"""Every plugin group."""
PARAMS_GROUPS = (POLICY_LOSS_PARAMS, ADVANTAGE_ESTIMATOR_PARAMS)
"""Groups of parameter schemas, which get no rows in a listing."""


class PluginGroup:
    """The plugins of one entry-point group, and those registered in this process.

    A spec is the name of a plugin, or ``distribution:name`` if two distributions claim the name.
    """

    def __init__(self, group: str, kind: str, *, params_group: str = "") -> None:
        """``kind`` is what messages call a plugin; ``params_group`` is the group of its schemas, if any."""
        self.group = group
        self.kind = kind
        self.params_group = params_group
        self._registered: dict[str, Registered] = {}

    def register(self, name: str, plugin: object, *, source: object, status: Status = "ok", reason: str = "") -> None:
        """Add a plugin of this process. ``source`` is the class or function that the user wrote.

        A plugin that was registered from the same place is replaced: a cell of a notebook ran again, or a module was
        reloaded.

        Raises:
            ValueError: the name is malformed, or registered from another place.
        """
        if not is_name(name):
            raise ValueError(f"{name!r} cannot be the name of a {self.kind}: {NAME_RULE}")
        value = value_of(source)
        first = self._registered.get(name)
        if first and not is_same_place(first.source, source):
            raise ValueError(
                f"{self.kind} {name!r} is registered twice: {first.claim.value} and {value}; rename one of them"
            )
        text = getattr(source, "__doc__", None)
        summary = shortened(text.strip().partition("\n")[0], MAX_VALUE) if isinstance(text, str) else ""
        self._registered[name] = Registered(Claim(name, value, SCRIPT, "", status, reason, summary), plugin, source)

    @property
    def registered(self) -> list[Claim]:
        """The plugins registered in this process."""
        return [each.claim for each in self._registered.values()]

    def name_of(self, plugin: object) -> str | None:
        """The spec of a registered class or function, or of an installed class; None if it is neither."""
        for name, registered in self._registered.items():
            if plugin is registered.plugin or plugin is registered.source:
                return qualified(registered.claim) if self._is_claimed(registered.claim) else name
        rows = (row for row in self.rows() if row.distribution != SCRIPT and row.value == value_of(plugin))
        return next((qualified(row) for row in rows), None)

    def _is_claimed(self, claim: Claim) -> bool:
        """Whether another distribution claims the name, too."""
        return sum(row.competes and row.name == claim.name for row in self.rows()) > 1

    def claims(self, policy: PluginPolicy = ALLOW_ALL) -> list[Claim]:
        """Every claim, sorted by name and distribution, whatever its status. Imports none of them.

        Raises:
            UnknownPluginError: the policy allows a distribution that is not installed.
        """
        rows = self.rows(policy)
        competing = defaultdict(list)
        for row in rows:
            if row.competes:
                competing[row.name].append(row)
        return [_marked(row, competing[row.name]) if row.competes else row for row in rows]

    def find(self, spec: str, policy: PluginPolicy = ALLOW_ALL, *, rows: Sequence[Claim] | None = None) -> Claim:
        """The usable claim that a spec means, among ``rows`` if they were already read. Imports nothing.

        Raises:
            UnknownPluginError: nothing has this name, or the policy allows a distribution that is not installed.
            PluginConflictError: two distributions claim the name, or the policy or a version excludes the plugin.
            PluginLoadError: its metadata or its package is broken.
        """
        distribution, _, name = spec.rpartition(":")
        rows = self.rows(policy) if rows is None else rows
        matches = [row for row in rows if row.name == name and fold(distribution) in ("", fold(row.distribution))]
        if not matches:
            raise self._unknown(spec, rows)
        competing = [row for row in matches if row.competes]
        if len(competing) > 1:
            raise PluginConflictError(
                f"{self.kind} {name!r} is claimed by {_owners(competing)}: use "
                f"{' or '.join(repr(qualified(row)) for row in competing)}, or uninstall one of them"
            )
        claim = (competing or matches)[0]
        if claim.status == "broken":
            raise PluginLoadError(f"{self.kind} {claim} is broken: {claim.reason}")
        if claim.status in ("denied", "incompatible"):
            raise PluginConflictError(f"{self.kind} {claim} cannot be used: {claim.reason}")
        return claim

    def load(self, spec: str, policy: PluginPolicy = ALLOW_ALL) -> object:
        """Import the plugin that a spec means, and no other. Raises as ``find`` and ``load_claim``."""
        return self.load_claim(self.find(spec, policy))

    def load_claim(self, claim: Claim) -> object:
        """Import what a claim from ``find`` names.

        Raises:
            PluginLoadError: its import fails in any way, including ``sys.exit``.
        """
        if self.is_registered(claim):
            return self._registered[claim.name].plugin
        failed = f"could not be imported from {claim.value}"
        importing = PluginCall(
            self.guard(claim), failed, kind=PluginLoadError, advice=lambda error: _how_to_repair(claim, error)
        )
        with importing, redirect_stdout(sys.stderr):  # its prints must not mix with output for programs
            return getattr(import_module(claim.module), claim.attribute)

    def guard(self, claim: Claim) -> Guard:
        """The guard for calls of a plugin's code."""
        author = "" if claim.distribution == SCRIPT else claim.distribution
        return Guard(f"{self.kind} {claim}", claim.module, author)

    def schema(self, claim: Claim) -> object:
        """The schema of a plugin, imported without it; None if it declares none. Raises as ``load_claim``."""
        if self.is_registered(claim):
            return getattr(self._registered[claim.name].plugin, "Params", None)
        schemas = PluginGroup(self.params_group, f"parameter schema of {self.kind}")
        for distribution in installed_distributions():
            for group, name, value in distribution.declarations:
                if (distribution.name, group, name) == (claim.distribution, self.params_group, claim.name):
                    return schemas.load_claim(claim._replace(value=value))
        return None

    def guard_of(self, plugin: type, subject: str = "") -> Guard:
        """The guard for calls of an instance of an installed class; ``subject`` names one that is not installed."""
        value = value_of(plugin)
        claim = next(self._claims_of(value), None)
        return Guard(subject or f"{self.kind} {value}", plugin.__module__) if claim is None else self.guard(claim)

    def is_registered(self, claim: Claim) -> bool:
        """Whether the claim belongs to a plugin registered in this process."""
        return claim.name in self._registered and self._registered[claim.name].claim == claim

    def source(self, name: str) -> object:
        """The class or function that the user registered under a name."""
        return self._registered[name].source

    def _claims_of(self, value: str) -> Iterator[Claim]:
        """The claims of a class, without looking up the others."""
        yield from (claim for claim in self.registered if claim.value == value)
        for distribution in installed_distributions():
            for declaration in distribution.declarations:
                if (declaration.group, declaration.value) == (self.group, value):
                    yield self._claim(distribution, declaration, ALLOW_ALL, "")

    def rows(self, policy: PluginPolicy = ALLOW_ALL) -> list[Claim]:
        """As ``claims``, but conflicts are not marked; for ``find``."""
        policy.check()
        distributions = installed_distributions()
        core = next((each.version for each in distributions if fold(each.name) == "skyrl-core"), "")
        rows = self.registered
        for distribution in distributions:
            mine = [declaration for declaration in distribution.declarations if declaration.group == self.group]
            by_name = {declaration.name: declaration for declaration in reversed(mine)}  # one row per name
            rows += [self._claim(distribution, declaration, policy, core) for declaration in by_name.values()]
        return sorted(rows, key=lambda row: (row.name, fold(row.distribution), row.value))

    def _claim(
        self, distribution: InstalledDistribution, declaration: Declaration, policy: PluginPolicy, core: str
    ) -> Claim:
        name, value = declaration.name, declaration.value
        status, reason = self._status(distribution, declaration, policy, core)
        file = source_file(value.partition(":")[0]) if is_value(value) else None
        summary = shortened(docstring_line(file), MAX_VALUE) if file else ""
        summary = summary or distribution.summary
        return Claim(name, value, distribution.name, distribution.version, status, reason, summary)

    def _status(
        self, distribution: InstalledDistribution, declaration: Declaration, policy: PluginPolicy, core: str
    ) -> tuple[Status, str]:
        if refusal := policy.refusal(distribution.name):
            return "denied", refusal
        if reason := defect(distribution, declaration):
            return "broken", reason
        if core and (bounds := unmet_core_requirement(distribution.requirements, core)):
            upgrade = f"{sys.executable} -m pip install --upgrade {distribution.name} skyrl-core"
            return "incompatible", f"it requires skyrl-core{bounds}, but {core} is installed: {upgrade}"
        if not self.params_group:
            return "ok", ""
        wanted = (self.params_group, declaration.name)
        schema = next((other for other in distribution.declarations if other[:2] == wanted), None)
        if schema is None:
            return "untyped", f"no schema in {self.params_group}: parameters are not checked before it is imported"
        if reason := defect(distribution, schema):
            return "broken", f"in {self.params_group}: {reason}"
        return "ok", ""

    def _unknown(self, spec: str, rows: Sequence[Claim]) -> UnknownPluginError:
        usable = [row for row in rows if row.status in ("ok", "untyped")]
        known = [qualified(row) if ":" in spec else row.name for row in usable]
        return UnknownPluginError(
            f"no {self.kind} is named {spec!r}{did_you_mean(spec, known)}\n"
            f"available: {', '.join(dict.fromkeys(known)) or 'none'}\n{self._how_to_install(spec, known)}"
        )

    def _how_to_install(self, spec: str, known: Sequence[str]) -> str:
        command = command_for_loss(spec, known) if self.group == POLICY_LOSSES else None
        return command or f"to install the package that provides it: {sys.executable} -m pip install PACKAGE"


def _marked(row: Claim, competing: Sequence[Claim]) -> Claim:
    others = [other for other in competing if other is not row]
    if not others:
        return row
    reason = f"{_owners(others)} claims it too; use {qualified(row)!r} or uninstall one of them"
    return row._replace(status="conflict", reason=reason)


def _how_to_repair(claim: Claim, error: BaseException) -> str:
    see = f"see the traceback: {sys.executable} -c 'import {claim.module}'"
    if isinstance(error, ModuleNotFoundError) and isinstance(error.name, str):
        package = error.name.partition(".")[0]
        if needed := requirement_with(package, claim.distribution):
            return f"{see}\ninstall {package}, which it needs: {pip_install(needed)}"
    return f"{see}\nrepair it: {repair(claim.distribution)}"


def _owners(claims: Iterable[Claim]) -> str:
    return " and ".join(map(owner, claims))
