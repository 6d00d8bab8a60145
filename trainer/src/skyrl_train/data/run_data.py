"""Loads the data of a run and checks every row with the tokenizer and its environment."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from skyrl_core.discovery import Guard, error_text
from skyrl_core.errors import PluginError
from skyrl_train.config.data_schema import evaluation_key
from skyrl_train.config.schema import RunConfig
from skyrl_train.data.prompt_source import LoadedRows, PromptSource, generated_source
from skyrl_train.data.prompt_tokens import PromptEncoder, PromptError
from skyrl_train.data.row_problem import FaultyRows, RowProblem, raise_faulty
from skyrl_train.data.rows import Columns, read_rows, with_system_prompt
from skyrl_train.environments.environment import Environment, Row
from skyrl_train.environments.load_environment import load_environments

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Entry = Row | RowProblem

TRAIN = "data.train"
"""The option of training rows; every other one is of held-out rows."""


class Workers(Protocol):
    """The ranks that share the check of the rows."""

    rank: int
    world_size: int

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in rank order, on every rank."""
        ...


@dataclass(frozen=True, kw_only=True)
class RunData:
    """The prompts of a run and the environments that reward them, the same on every rank."""

    train: PromptSource | None  # None if it was not wanted
    evaluation: Mapping[str, PromptSource]  # by evaluation set; a single set without a name is the empty name
    environments: Mapping[str, Environment]
    notes: tuple[str, ...] = ()  # the rows that were left out

    @property
    def training_rows(self) -> PromptSource:
        """The training prompts of a run that trains.

        Raises:
            ValueError: the data was loaded without them.
        """
        if self.train is None:
            raise ValueError("the data was loaded without training rows")
        return self.train

    def sources(self) -> dict[str, PromptSource | None]:
        """All sources by option, without the prefix ``data.``."""
        held_out = {evaluation_key(name).removeprefix("data."): source for name, source in self.evaluation.items()}
        return {"train": self.train, "evaluation": None} | held_out


class RowCheck:
    """Checks rows with their environment and, if there is one, with the tokenizer."""

    def __init__(
        self,
        config: RunConfig,
        environments: Mapping[str, Environment],
        tokenizer: "PreTrainedTokenizerBase | None",
        keys: Iterable[str],
    ) -> None:
        """Prepare to check the rows of these options.

        Raises:
            DataError: the tokenizer does not fit the model or the options of the chat template.
        """
        self._config = config
        self._environments = environments
        self._encoders = (
            {key: PromptEncoder.of(config, tokenizer, evaluation=key != TRAIN) for key in keys}
            if tokenizer is not None
            else {}
        )

    def problem(self, row: Row, key: str) -> RowProblem | None:
        """The reason why a row of an option such as ``data.train`` cannot be used, or None."""
        data = self._config.data
        rejection = _rejection(self._environments[row.environment], row)
        if rejection is not None:
            column = f" (column {data.ground_truth_column!r})" if "ground truth" in rejection else ""
            return RowProblem(place=row.place, text=f"{row.place}: {row.environment}: {rejection}{column}")
        if not self._encoders:
            return None
        try:
            self._encoders[key].encode(row)
        except PromptError as error:
            where = f"{row.place}, column {data.prompt_column!r}"
            text = f"{where}: the prompt {error.problem} (row {row.label})"
            return RowProblem(place=row.place, text=text, reason=error.reason)
        return None

    def check_generated(self, key: str, source: PromptSource) -> None:
        """Check the first rows that an environment generates for an option; later ones are checked when they are used.

        Raises:
            PromptError: a prompt cannot be used.
        """
        count = self._config.evaluation.prompts if key != TRAIN else self._config.trainer.prompts_per_step
        for row in source.take(0, count) if self._encoders else ():
            self._encoders[key].encode(row)


def load_run_data(
    config: RunConfig,
    environment: Environment,
    tokenizer: "PreTrainedTokenizerBase | None",
    workers: Workers | None = None,
    *,
    trains: bool = True,
) -> RunData:
    """The prompts of a run: from the data options where they are set, else from the environment. Collective.

    Each rank checks a share of the rows, and all ranks leave out the same. Without a tokenizer prompts are not encoded;
    without workers this process checks all rows.

    Raises:
        DataError: the data cannot be read, rows are invalid and not left out, or there are neither data nor an
            environment that generates problems.
        UnknownPluginError: rows name an environment that cannot be loaded.
    """
    sources = wanted_sources(config, trains=trains)
    entries = {key: list(entries_of(config, key, names)) for key, names in sources.items() if names}
    named = {entry.environment for part in entries.values() for entry in part if isinstance(entry, Row)}
    environments = load_environments(config, environment, named)
    check = RowCheck(config, environments, tokenizer, sources)
    for key, part in entries.items():
        _replace_faulty(key, part, check, workers)
    faulty = [_faulty(key, part) for key, part in entries.items()]
    raise_faulty(part.without(config.data.drop) for part in faulty)
    loaded = {key: _source(config, environment, key, entries.get(key)) for key in sources}
    for key in loaded.keys() - entries.keys():
        check.check_generated(key, loaded[key])
    return RunData(
        train=loaded.pop(TRAIN, None),
        evaluation={key.removeprefix("data.evaluation").removeprefix("."): source for key, source in loaded.items()},
        environments=environments,
        notes=tuple(part.note() for part in faulty if part.problems),
    )


def wanted_sources(config: RunConfig, *, trains: bool) -> dict[str, tuple[str, ...]]:
    """The sources of each option that this run reads; without sources the environment generates the problems."""
    train = {TRAIN: config.data.train_sources} if trains else {}
    if not config.evaluation.prompts:
        return train
    sets = config.data.evaluation_sets or {"": ()}
    return train | {evaluation_key(name): names for name, names in sets.items()}


def entries_of(config: RunConfig, key: str, sources: Sequence[str], *, streaming: bool = False) -> Iterator[Entry]:
    """Each row of an option's sources with the system prompt, or its problem.

    Raises:
        DataError: a source cannot be read, or none has rows.
    """
    data = config.data
    columns = Columns(
        prompt=data.prompt_column, ground_truth=data.ground_truth_column, environment=data.environment_column
    )
    split = data.train_split if key == TRAIN else data.evaluation_split
    name = config.environment.name
    for entry in read_rows(sources, split, columns=columns, default_environment=name, streaming=streaming):
        yield with_system_prompt(entry, data.system_prompt) if isinstance(entry, Row) else entry


def _replace_faulty(key: str, entries: list[Entry], check: RowCheck, workers: Workers | None) -> None:
    """Replace each row that the check rejects with its problem; the same on all ranks. Collective."""
    found = []
    first, stride = (workers.rank, workers.world_size) if workers is not None else (0, 1)
    for index in range(first, len(entries), stride):
        entry = entries[index]
        problem = check.problem(entry, key) if isinstance(entry, Row) else None
        if problem is not None:
            found.append((index, problem))
    for index, problem in (
        pair for part in (workers.gather(found) if workers is not None else [found]) for pair in part
    ):
        entries[index] = problem


def _faulty(key: str, entries: Sequence[Entry]) -> FaultyRows:
    return FaultyRows(key=key, count=len(entries), problems=[part for part in entries if isinstance(part, RowProblem)])


def _rejection(environment: Environment, row: Row) -> str | None:
    try:
        with Guard(f"environment {row.environment}", type(environment).__module__).calling("check_row"):
            rejection = environment.check_row(row)
            if not isinstance(rejection, str | None):
                raise TypeError(f"it returned {type(rejection).__name__} instead of text or None")
            return rejection
    except PluginError as error:  # the row is reported with its place
        return f"check_row raised {error_text(error.__cause__ or error)}"


def _source(config: RunConfig, environment: Environment, key: str, entries: Sequence[Entry] | None) -> PromptSource:
    train = key == TRAIN
    if entries is None:
        return generated_source(config, "train" if train else "evaluation", environment)
    rows = [entry for entry in entries if isinstance(entry, Row)]
    if not rows:
        raise_faulty([_faulty(key, entries)])  # nothing is left
    return LoadedRows(rows, seed=config.seed, shuffle=config.data.shuffle and train)
