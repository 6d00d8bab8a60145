"""The run folder: the files of a run, and the lock that allows one owner at a time."""

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from skyrl_core.discovery import safe_to_print
from skyrl_train.config.yaml_text import write_yaml
from skyrl_train.tracking.atomic_file import (
    RunFolderError,
    remove_temporary_files,
    write_bytes,
    write_error,
)
from skyrl_train.tracking.folder_lock import LOCK_FILE, FolderLock
from skyrl_train.tracking.metrics_jsonl import METRICS_FILE, MetricsRecord
from skyrl_train.tracking.strict_json import encode
from skyrl_train.tracking.tracker import RunSummary

DEFAULT_ROOT = Path("runs")


class RunFolder:
    """The files of one run. The constructor does not touch the folder; ``create`` and ``resume`` return its owner.

    The owner holds the lock of the folder until ``close``. Also a context manager.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.record = MetricsRecord()
        """metrics.jsonl; only the owner starts it."""
        self._lock = FolderLock(self.path)

    @classmethod
    def create(
        cls, path: Path | str | None, *, title: str, root: Path = DEFAULT_ROOT, is_private: bool = False
    ) -> Self:
        """Create the folder of a new run and own it.

        Args:
            path: a folder that is empty or does not exist; None creates ``<root>/<title>-<date>-<time>``.
            title: usually the name of the loss.
            is_private: let only the user read the folder, because its files may repeat a secret.

        Raises:
            RunFolderError: it is not empty, another process owns it, or it cannot be written.
        """
        folder = cls(_make(Path(path).expanduser()) if path is not None else _make_unique(root, title))
        if is_private:
            folder.make_private()
        folder._lock.acquire()
        if any(entry.name != LOCK_FILE for entry in folder.path.iterdir()):
            folder.close()
            raise RunFolderError(
                f"the run folder {folder.path} is not empty: add --resume to continue the run in it, "
                "choose another run_folder, or delete it."
            )
        return folder

    @classmethod
    def resume(cls, path: Path | str) -> Self:
        """Own the folder of an earlier run.

        Raises:
            RunFolderError: it contains no run, another process owns it, or it cannot be written.
        """
        folder = cls(path)
        if not folder.run_file.exists():
            raise RunFolderError(
                f"there is no run to resume in {folder.path}: {folder.run_file.name} is missing. "
                "Give the run folder that `skyrl train` printed."
            )
        folder._refuse_links()
        folder._lock.acquire()
        remove_temporary_files(folder.path)
        return folder

    def make_private(self) -> None:
        """Let only the user read the folder.

        Raises:
            RunFolderError: the folder belongs to another user.
        """
        try:
            self.path.chmod(0o700)
        except OSError as error:
            raise write_error(self.path, error) from error

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def traceback_file(self) -> Path:
        return self.path / "traceback.txt"

    @property
    def run_file(self) -> Path:
        return self.path / "run.json"

    @property
    def metrics(self) -> Path:
        return self.path / METRICS_FILE

    @property
    def rollouts(self) -> Path:
        return self.path / "rollouts"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write config.yaml: the resolved configuration as plain data, with its order of keys.

        Raises:
            RunFolderError: the folder cannot be written.
        """
        plain = json.loads(encode(config))
        write_bytes(self.config_file, write_yaml(plain).encode())

    def read_run(self) -> dict[str, Any]:
        """The content of run.json; empty if the file does not exist.

        Raises:
            RunFolderError: it is not a JSON object.
        """
        try:
            content = json.loads(self.run_file.read_bytes())
        except FileNotFoundError:
            return {}
        except (ValueError, RecursionError, OSError) as error:
            raise RunFolderError(f"{self.run_file} cannot be read: {error}") from error
        if not isinstance(content, dict):
            raise RunFolderError(f"{self.run_file} cannot be read: expected an object, not {type(content).__name__}")
        return content

    def update_run(self, fields: Mapping[str, Any]) -> None:
        """Set these fields of run.json, atomically, and keep the others.

        Raises:
            RunFolderError: the folder cannot be written.
        """
        write_bytes(self.run_file, encode({**self.read_run(), **fields}, indent=2) + b"\n")

    def start_run(self, fields: Mapping[str, Any]) -> None:
        """Write run.json at the start: these fields and the time. A resumed run keeps its first start time."""
        earlier, now = self.read_run(), _now()
        self.traceback_file.unlink(missing_ok=True)  # of an earlier failure
        times: dict[str, Any] = {"started": now}
        if isinstance(earlier.get("started"), str):  # somebody may have edited the file
            resumed = earlier.get("resumed")
            times = {"started": earlier["started"], "resumed": [*(resumed if isinstance(resumed, list) else []), now]}
        self.update_run({**fields, **times, "ended": None, "outcome": "running", "error": None})

    def write_traceback(self, text: str) -> Path:
        """Write the complete traceback of the error that ended the run."""
        write_bytes(self.traceback_file, f"{text}\n".encode(errors="backslashreplace"))
        return self.traceback_file

    def end_run(self, summary: RunSummary) -> None:
        """Write the outcome, the evaluations and the sample answers into run.json."""
        answers = [vars(answer) for answer in summary.answers]
        self.update_run(
            {
                "ended": _now(),
                "outcome": summary.outcome,
                "error": safe_to_print(summary.error) if summary.error else None,
                "last_step": summary.steps,
                "training_seconds": summary.seconds,
                "before": summary.before,
                "after": summary.after,
                "answers": answers,
                "failed_evaluations": summary.failed_evaluations,
                "checkpoint": summary.checkpoint,
                "resume_command": summary.resume_command,
            }
        )

    @contextmanager
    def restored_on_error(self) -> Iterator[None]:
        """If the block raises, restore config.yaml and run.json, and delete a metrics.jsonl that it created.

        A run that fails to start can then be started or resumed again once the cause is fixed.
        """
        files = (self.config_file, self.run_file)
        before = {file: file.read_bytes() for file in files if file.exists()}
        made = [file for file in (*files, self.metrics) if not file.exists()]
        try:
            yield
        except BaseException:
            with suppress(OSError, RunFolderError):  # the user needs the error of the block, not this one
                for file, content in before.items():
                    write_bytes(file, content)
                for file in made:
                    file.unlink(missing_ok=True)
            raise

    def is_owned(self) -> bool:
        """Whether a live process owns the folder."""
        return self._lock.is_held()

    def close(self) -> None:
        """Close the record and release the folder. A second call does nothing."""
        self.record.close()
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _refuse_links(self) -> None:
        """Raise if a file is a link: a run that somebody else made could have its target overwritten."""
        for file in self.path.iterdir():
            if file.is_symlink() and not file.is_dir():
                raise RunFolderError(
                    f"{file} is a link, and a resumed run would write to its target: copy the run with its files "
                    "(`cp -rL`), or remove the link"
                )


def _make(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise RunFolderError(f"the run folder {path} is a file: choose another run_folder.") from error
    except OSError as error:
        raise write_error(path, error) from error
    return path


def _make_unique(root: Path, title: str) -> Path:
    _make(root)
    name = f"{_file_name(title)}-{datetime.now():%Y%m%d-%H%M%S}"
    for number in itertools.count(1):
        path = root / (name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir()  # fails if it exists, so two runs started in the same second get two folders
        except FileExistsError:
            continue
        except OSError as error:
            raise write_error(path, error) from error
        return path
    raise AssertionError("unreachable: count() never ends")


def _file_name(title: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", title).strip("-.")[:80] or "run"


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
