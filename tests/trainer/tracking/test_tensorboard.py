"""TensorBoard: real event files, read back as TensorBoard reads them."""

import pytest

from skyrl_train.tracking.tensorboard import TensorBoard
from skyrl_train.tracking.tracker import RunInfo, RunSummary

event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def log(folder, steps, start_step=0, *, finish=True):
    tracker = TensorBoard()
    config = {"model": "tiny"}
    tracker.start(
        RunInfo(run_folder=folder, title="t", loss="a:b@1", total_steps=4, config=config, start_step=start_step)
    )
    if not start_step:
        tracker.log_evaluation(0, {"accuracy": 0.25, "evaluation/hard/accuracy": 0.125}, False)
    for step in steps:
        tracker.log_step(step, {"reward/mean": step + start_step / 8})
    if finish:
        tracker.finish(RunSummary(run_folder=folder, steps=max(steps), seconds=1.0))
    tracker.close()


def scalars(folder):
    events = event_accumulator.EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return events, {
        name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]
    }


def test_the_event_file_holds_every_metric_the_configuration_and_the_outcome(tmp_path):
    log(tmp_path, [1, 2])
    events, values = scalars(tmp_path)
    assert values == {
        "evaluation/accuracy": [(0, 0.25)],
        "evaluation/hard/accuracy": [(0, 0.125)],
        "reward/mean": [(1, 1.0), (2, 2.0)],
    }
    texts = {
        name: event.tensor_proto.string_val[0].decode()
        for name in events.Tags()["tensors"]
        for event in events.Tensors(name)
    }
    assert '"model": "tiny"' in texts["config"]
    assert (texts["loss"], texts["outcome"]) == ("a:b@1", "finished")


def test_a_resumed_run_replaces_the_steps_that_it_repeats(tmp_path):
    log(tmp_path, [1, 2, 3], finish=False)  # killed; the checkpoint was after step 2
    log(tmp_path, [3, 4], start_step=2)
    assert scalars(tmp_path)[1]["reward/mean"] == [(1, 1.0), (2, 2.0), (3, 3.25), (4, 4.25)]


def test_closing_twice_and_without_a_start_does_nothing(tmp_path):
    tracker = TensorBoard()
    tracker.close()
    tracker.close()
    assert list(tmp_path.iterdir()) == []
