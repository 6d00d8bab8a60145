"""The samples of the next step, drawn by a thread while this step trains: `rollout.async: one_step`.

What is drawn does not depend on timing: the weights go to the engine once the samples are there, so a whole batch is of
one policy, that before the update. Where a server is lost meanwhile, the batch is drawn after the update instead.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future

from skyrl_train.rollout.weights import MovingWeightsError, SettledWeights
from skyrl_train.step.rollout import Collector, Drawn


class DrawAhead:
    """At most one batch ahead of the one that trains. All ranks call its methods together."""

    def __init__(self, collector: Collector, weights: SettledWeights, tell: Callable[[str], None]) -> None:
        """``weights`` are what the engine takes over; nobody reads them while a thread draws."""
        self._collector = collector
        self._weights = weights
        self._tell = tell
        self._drawing: Future[Drawn] | None = None
        self._drawn: Drawn | None = None

    def samples(self, step: int, position: int, temperature: float) -> Drawn:
        """Those of this step, from this position in the data on: drawn ahead, or now."""
        drawn, self._drawn = self._drawn, None
        return drawn if drawn is not None else self._collector.draw(step, position, temperature)

    def start(self, step: int, position: int, temperature: float) -> None:
        """Begin with the samples of this step, while the caller trains."""
        drawing: Future[Drawn] = Future()

        def draw() -> None:
            try:
                drawing.set_result(self._collector.draw(step, position, temperature))
            except BaseException as error:  # noqa: BLE001 - of any kind: `wait` raises it in the main thread
                drawing.set_exception(error)

        self._drawing = drawing
        self._weights.moving = True
        # A daemon: a run that ends with an error does not wait for samples that nobody will use.
        threading.Thread(target=draw, name="skyrl-draw-ahead", daemon=True).start()

    def wait(self) -> None:
        """Until the samples are there, if any are drawn. An error of the drawing is raised here."""
        if self._drawing is None:
            return
        drawing, self._drawing = self._drawing, None
        try:
            self._drawn = drawing.result()
        except MovingWeightsError:
            self._tell("a rollout server was lost while it drew ahead: this batch is drawn after the update")
        finally:
            self._weights.moving = False
