"""Validates values against the schema and reports every fault at once."""

from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from skyrl_core.errors import MOST_LISTED, nearest
from skyrl_core.parameters import rule_of
from skyrl_train.config.options import all_options, all_sections, subsections
from skyrl_train.config.schema import RunConfig
from skyrl_train.config.section import Section
from skyrl_train.config.yaml_text import Keys


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One invalid value."""

    keys: Keys
    value: Any
    rule: str


def validate(values: dict[str, Any]) -> tuple[RunConfig, list[Fault]]:
    """The configuration, and the faults of the values.

    A faulty option has its default in the configuration, so that later checks can find other problems in the same run.
    """
    values = _without_empty_sections(values, RunConfig)
    faults: list[Fault] = []
    while True:  # some validators see values only when those before them are valid
        try:
            return RunConfig.model_validate(values), faults
        except ValidationError as error:
            found = list(_faults(error, values))
        faults += found
        rest = _without(values, {fault.keys for fault in found})
        values = {} if rest == values else rest


def _without_empty_sections(values: dict[str, Any], section: type[Section]) -> dict[str, Any]:
    """The values with null sections emptied: a section whose options are all commented out reads as null."""
    inner = subsections(section)
    result = dict(values)
    for name, value in values.items():
        if name in inner and value is None:
            result[name] = {}
        elif name in inner and isinstance(value, dict):
            result[name] = _without_empty_sections(value, inner[name])
        elif section.model_config.get("extra") == "allow" and name not in section.model_fields and value is None:
            result[name] = {}
    return result


def _without(values: dict[str, Any], faulty: Set[Keys], at: Keys = ()) -> dict[str, Any]:
    sections = {keys[len(at)] for keys in faulty if len(keys) > len(at) + 1 and keys[: len(at)] == at}
    return {
        name: _without(value, faulty, (*at, name)) if name in sections and isinstance(value, dict) else value
        for name, value in values.items()
        if (*at, name) not in faulty
    }


def _faults(error: ValidationError, values: dict[str, Any]) -> Iterator[Fault]:
    """One fault for each option; the alternatives of a union (`integer or auto`) are one rule."""
    by_keys: dict[Keys, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        by_keys.setdefault(_option_keys(detail["loc"]), []).append(detail)
    for count, (keys, details) in enumerate(by_keys.items()):
        value: Any = values
        for key in keys:
            value = value[key]
        rules = [_rule(detail) for detail in details]
        if details[0]["type"] == "extra_forbidden":
            rules = [unknown_option(keys, suggest=count < MOST_LISTED)]
        elif details[0]["type"] == "literal_error" and isinstance(value, str):
            rules[-1] += _nearest_choice(value, details[0])
        yield Fault(keys=keys, value=value, rule=" or ".join(dict.fromkeys(rules)).replace(" or must be ", " or "))


def _option_keys(location: tuple[int | str, ...]) -> Keys:
    """The part of pydantic's location that names an option; the rest are list indices and union members."""
    section: type[Section] | None = RunConfig
    keys: list[str] = []
    for part in location:
        if section is None:
            break
        keys.append(str(part))
        section = subsections(section).get(str(part))
    return tuple(keys)


def unknown_option(keys: Keys, *, suggest: bool = True) -> str:
    """The message for a key that the schema does not have; a suggestion costs a comparison with every option."""
    if not suggest:
        return "unknown option"
    parent, name = ".".join(keys[:-1]), keys[-1]
    known = [option.key for option in all_options()] + [section for section in all_sections() if section]
    in_section = {key.rpartition(".")[2]: key for key in known if key.rpartition(".")[0] == parent}
    below = [key for key in known if key.startswith(f"{parent}." if parent else "") and key.rpartition(".")[2] == name]
    match = nearest(name, in_section)
    # An option of another section is no suggestion: `evaluation.steps` does not mean `trainer.steps`.
    meant = below or ([in_section[match]] if match else [])
    if meant:
        return f"unknown option; did you mean {' or '.join(meant)}?"
    return f"unknown option; `skyrl config{' ' + parent if parent else ''}` lists the options"


def _rule(detail: ErrorDetails) -> str:
    if detail["type"] == "model_type":
        return "must be a section with options below it"
    return rule_of(detail)


def _nearest_choice(value: str, detail: ErrorDetails) -> str:
    choices = detail.get("ctx", {})["expected"].replace(" or ", ", ").replace("'", "").split(", ")
    match = nearest(value, choices)
    return f"; did you mean {match}?" if match else ""
