"""Checks `trainer.deepspeed.extra` against DeepSpeed's schema. Imports DeepSpeed, and torch with it, when called."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from skyrl_core.errors import InvalidParamsError, ParamProblem, nearest

KEY = "trainer.deepspeed.extra"

SET_BY_TRAINER = {
    "train_batch_size": "trainer.prompts_per_step and trainer.samples_per_prompt",
    "train_micro_batch_size_per_gpu": "trainer.micro_batch_size",
    "gradient_accumulation_steps": "trainer.micro_batch_size",
    "gradient_clipping": "trainer.optimizer.max_grad_norm",
    "bf16": "trainer.deepspeed.precision",
    "fp16": "trainer.deepspeed.precision",
    "amp": "trainer.deepspeed.precision",
    "torch_autocast": "trainer.deepspeed.precision",
    "optimizer": "trainer.optimizer",
    "scheduler": "trainer.optimizer.schedule",
    "checkpoint": "the section checkpoint",
    "activation_checkpointing": "trainer.deepspeed.gradient_checkpointing",
    "zero_optimization.stage": "trainer.deepspeed.zero_stage",
    "zero_optimization.offload_optimizer": "trainer.deepspeed.offload_optimizer",
}
"""Keys of DeepSpeed that the trainer sets, with the option to use instead."""

SWITCH, NUMBER = "true or false", "a number from 0.001 to 1000000"
PLAIN = {
    "wall_clock_breakdown": SWITCH,
    "memory_breakdown": SWITCH,
    "dump_state": SWITCH,
    "prescale_gradients": SWITCH,
    "disable_allgather": SWITCH,
    "gradient_predivide_factor": NUMBER,
    "communication_data_type": "fp16, bf16 or fp32",
}
"""Keys at the top level that DeepSpeed reads without a schema, with the values that it takes."""


def check_extra(extra: Mapping[str, Any]) -> None:
    """Check the options; imports nothing if there are none.

    Raises:
        InvalidParamsError: a key is unknown, set by the trainer, or has a wrong value; lists every problem.
    """
    problems = list(_problems(extra)) if extra else []
    if problems:
        raise InvalidParamsError("DeepSpeed does not accept these options; correct or remove them:", problems)


def _problems(extra: Mapping[str, Any]) -> Iterator[ParamProblem]:
    sections = _sections()
    for key, value in extra.items():
        if key in SET_BY_TRAINER:
            yield _problem(key, value, f"the trainer sets it; use {SET_BY_TRAINER[key]}")
        elif key in sections:
            yield from _problems_of_section(key, value, sections[key])
        elif key in PLAIN:
            if not _is_valid(key, value):
                yield _problem(key, value, f"must be {PLAIN[key]}")
        else:
            known = (*sections, *PLAIN, *SET_BY_TRAINER)
            yield ParamProblem(f"{KEY}.{key}", value, "is no option that can be passed through", nearest(key, known))


def _is_valid(key: str, value: Any) -> bool:
    if PLAIN[key] == SWITCH:
        return isinstance(value, bool)
    if PLAIN[key] == NUMBER:
        return isinstance(value, int | float) and not isinstance(value, bool) and 1e-3 <= value <= 1e6
    return value in ("fp16", "bf16", "fp32")


def _problems_of_section(section: str, value: Any, model: Any) -> Iterator[ParamProblem]:
    if not isinstance(value, dict):
        yield _problem(section, value, "must be a section of options")
        return
    own = {name: each for name, each in value.items() if f"{section}.{name}" not in SET_BY_TRAINER}
    for name in value.keys() - own.keys():
        path = f"{section}.{name}"
        yield _problem(path, value[name], f"the trainer sets it; use {SET_BY_TRAINER[path]}")
    try:
        model(strict=True, **own)  # otherwise DeepSpeed drops the value "auto"
    except ValidationError as error:
        names = {*model.model_fields, *(field.alias for field in model.model_fields.values() if field.alias)}
        for each in error.errors():
            path = ".".join(map(str, (KEY, section, *each["loc"])))
            unknown = each["type"] == "extra_forbidden"
            suggestion = nearest(str(each["loc"][-1]), names) if unknown and len(each["loc"]) == 1 else None
            rule = "DeepSpeed has no such option" if unknown else each["msg"]
            yield ParamProblem(path, each["input"], rule, suggestion)


def _problem(key: str, value: Any, rule: str) -> ParamProblem:
    return ParamProblem(f"{KEY}.{key}", value, rule)


def _sections() -> dict[str, Any]:
    """The sections that may be passed through, with DeepSpeed's schemas."""
    from deepspeed.comm.config import CommsLoggerConfig
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    return {"zero_optimization": DeepSpeedZeroConfig, "comms_logger": CommsLoggerConfig}
