"""Writes the model of each checkpoint as a transformers folder inside it, while training goes on."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from skyrl_core.errors import SkyrlError
from skyrl_train.checkpoints.model_export import origin, write_model
from skyrl_train.ranks.ranks import Ranks
from skyrl_train.record.progress import Progress
from skyrl_train.trainer_engine.zero import ZeroEngine

FOLDER = "model"
"""Where the model is in a checkpoint. It is not in the manifest, because it comes after it."""


@dataclass
class _Writing:
    """A folder that is being written, and how it went."""

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
        except Exception as error:  # noqa: BLE001  # kept for `wait`, which says it
            self.error = error


class BackgroundExport:
    """Copies the weights between two steps and writes the copy in a thread of rank 0, one at a time.

    As a context manager it waits, at the end, for what is being written.
    """

    def __init__(
        self,
        engine: ZeroEngine,
        tokenizer: PreTrainedTokenizerBase,
        ranks: Ranks,
        *,
        model_name: str,
        tell: Callable[[str], None],
    ) -> None:
        """``tell`` takes a line for people: that an export failed, which ends no run."""
        self._engine = engine
        self._tokenizer = tokenizer
        self._ranks = ranks
        self._model_name = model_name
        self._tell = tell
        self._weights: dict[str, Tensor] = {}
        self._writing: _Writing | None = None

    def start(self, checkpoint: Path, progress: Progress) -> None:
        """Export the weights of now as those of a checkpoint that is complete, unless it has its model. Collective.

        It returns once the weights are copied.
        """
        # Rank 0 decides: two ranks that see the disk differently would wait for each other.
        if not self._ranks.broadcast((checkpoint / FOLDER).exists()):
            self.copy()
            self.write(checkpoint, progress)

    def copy(self) -> None:
        """The weights of now, for a checkpoint that is not there yet. Collective."""
        self.wait()  # so that there is one copy
        self._weights = self._snapshot()

    def write(self, checkpoint: Path, progress: Progress) -> None:
        """Begin to write what was copied into the checkpoint, which is complete now."""
        weights, self._weights = self._weights, {}
        if not self._ranks.is_main:
            return

        def work() -> None:
            model, source = self._engine.policy.model, origin(self._model_name, checkpoint, progress)
            write_model(checkpoint / FOLDER, model, self._tokenizer, source, weights=weights)

        self._writing = _Writing(checkpoint, work)

    def wait(self) -> None:
        """Until nothing is being written; says so if it failed. Before anything removes a checkpoint."""
        writing, self._writing = self._writing, None
        if writing is None:
            return
        writing.thread.join()
        if writing.error is not None:
            reason = writing.error if isinstance(writing.error, SkyrlError) else repr(writing.error)
            self._tell(
                f"the model of {writing.checkpoint.name} was not exported: {reason}. The checkpoint is whole: "
                f"`skyrl export {writing.checkpoint}` makes it again"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wait()

    @torch.no_grad()
    def _snapshot(self) -> dict[str, Tensor]:
        """On rank 0 the whole model in main memory, by transformers names; a parameter that is tied comes once."""
        main, weights = self._ranks.is_main, {}
        for name, tensor in self._engine.named_tensors():  # to the end, on all ranks
            if main:
                weights[name] = tensor.to("cpu", copy=True)
        model = self._engine.policy.model
        saved = model.state_dict().keys()
        buffers = {name: tensor.to("cpu", copy=True) for name, tensor in model.named_buffers() if name in saved}
        return weights | buffers
