"""Exports the model of each checkpoint as a transformers folder inside it, while training continues."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from skyrl_core.errors import SkyrlError
from skyrl_train.checkpoints.model_export import origin, write_model
from skyrl_train.ranks.ranks import Ranks
from skyrl_train.record.progress import Progress
from skyrl_train.trainer_engine.zero import ZeroEngine

FOLDER = "model"
"""The model's folder in a checkpoint. The manifest does not list it, because it is written later."""


@dataclass
class _Export:
    """A folder that a thread is writing, and the thread's error."""

    checkpoint: Path
    work: Callable[[], None]
    error: Exception | None = None
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run, name=f"export of {self.checkpoint.name}")
        self.thread.start()

    def _run(self) -> None:
        try:
            self.work()
        except Exception as error:  # noqa: BLE001  # `wait` reports it
            self.error = error


class BackgroundExport:
    """Copies the weights between two steps; a thread of rank 0 writes the copy. One export at a time.

    As a context manager it waits at the end for the current export.
    """

    def __init__(
        self,
        engine: ZeroEngine,
        tokenizer: Mapping[str, Path],
        ranks: Ranks,
        *,
        model_name: str,
        message: Callable[[str], None],
    ) -> None:
        """``tokenizer`` has the files of the tokenizer.

        ``message`` prints a line for the user: a failed export does not end the run.
        """
        self._engine = engine
        self._tokenizer = tokenizer
        self._ranks = ranks
        self._model_name = model_name
        self._message = message
        self._weights: dict[str, Tensor] = {}
        self._export: _Export | None = None

    def start(self, checkpoint: Path, progress: Progress) -> None:
        """Export the current weights into a complete checkpoint that has no model yet. Collective.

        Returns once the weights are copied.
        """
        # Rank 0 decides: two ranks that see the disk differently would wait for each other.
        if not self._ranks.broadcast((checkpoint / FOLDER).exists()):
            self.copy()
            self.write(checkpoint, progress)

    def copy(self) -> None:
        """Copy the current weights, for a checkpoint that is not complete yet. Collective."""
        self.wait()  # at most one copy exists
        self._weights = self._snapshot()

    def write(self, checkpoint: Path, progress: Progress) -> None:
        """Start writing the copied weights into the checkpoint, which is complete now."""
        weights, self._weights = self._weights, {}
        if not self._ranks.is_main:
            return

        def work() -> None:
            model, source = self._engine.policy.model, origin(self._model_name, checkpoint, progress)
            write_model(checkpoint / FOLDER, model, self._tokenizer, source, weights=weights)

        self._export = _Export(checkpoint, work)

    def wait(self) -> None:
        """Wait for the current export, and report it if it failed. Call it before a checkpoint is removed."""
        export, self._export = self._export, None
        if export is None:
            return
        export.thread.join()
        if export.error is not None:
            reason = export.error if isinstance(export.error, SkyrlError) else repr(export.error)
            self._message(
                f"the model of {export.checkpoint.name} was not exported: {reason}. The checkpoint is intact: run "
                f"`skyrl export {export.checkpoint}` to export its model"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wait()

    @torch.no_grad()
    def _snapshot(self) -> dict[str, Tensor]:
        """On rank 0 the complete model in main memory, by transformers names; a tied parameter appears once."""
        main, weights = self._ranks.is_main, {}
        for name, tensor in self._engine.named_tensors():  # all ranks must iterate to the end
            if main:
                weights[name] = tensor.to("cpu", copy=True)
        model = self._engine.policy.model
        saved = model.state_dict().keys()
        buffers = {name: tensor.to("cpu", copy=True) for name, tensor in model.named_buffers() if name in saved}
        return weights | buffers
