"""Rule ``process_settings``: the loss neither depends on settings of the process nor changes them."""

import random
import sys
from typing import Any

import torch

from skyrl_core.conformance.batches import ExampleBatch
from skyrl_core.conformance.loss_call import call_loss, ready_batch, result_dtype
from skyrl_core.conformance.restored_settings import read_settings, restored_settings
from skyrl_core.conformance.rule import Rule, Violation
from skyrl_core.conformance.trial import run
from skyrl_core.contract.policy_loss import PolicyLoss


def check_process_settings(loss: PolicyLoss, batch: ExampleBatch) -> list[str]:
    """Compare the settings before and after a call, and the loss under another default dtype."""
    before = read_settings()
    call_loss(loss, ready_batch(loss, batch))
    changed = [name for name, value in read_settings().items() if value != before[name]]
    if changed:
        raise Violation(f"a call changed {', '.join(changed)}, for the trainer and every other loss")
    _check_generators(loss, batch)
    expected = run(loss, batch)
    with restored_settings():
        torch.set_default_dtype(torch.float64)
        dtype, trial = result_dtype(loss, batch), run(loss, batch)
    difference = expected.difference(trial) if dtype == batch.log_probs.dtype else f"the loss is {dtype}"
    if difference:
        raise Violation(f"under torch.set_default_dtype(torch.float64) {difference}", batch=batch)
    return []


def _check_generators(loss: PolicyLoss, batch: ExampleBatch) -> None:
    """Call the loss in two states of each random generator: if both end in one state, the loss has seeded it."""
    states = []
    for seed in (1, 2):
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        numpy = sys.modules.get("numpy")
        if numpy is not None:
            numpy.random.seed(seed)
        call_loss(loss, ready_batch(loss, batch))
        states.append(_generators(numpy))
    for name, state in states[0].items():
        if state == states[1][name]:
            raise Violation(f"a call seeds the global generator of {name}: the trainer samples from it, too")


def _generators(numpy: Any) -> dict[str, str]:
    states = {"torch": torch.default_generator.get_state().tolist(), "Python": random.getstate()}
    if numpy is not None:
        states["NumPy"] = [str(part) for part in numpy.random.get_state(legacy=False)["state"].values()]
    return {name: repr(state) for name, state in states.items()}


PROCESS_SETTINGS = Rule(
    name="process_settings",
    explanation="the loss neither depends on settings of the process nor changes them",
    remedy="give tensors the dtype of the inputs (zeros_like, new_tensor); leave torch.manual_seed, "
    "torch.set_default_dtype, warnings and environment variables to the trainer",
    counterexample="torch.zeros(3) added to the losses; torch.manual_seed(0) in token_losses; os.environ[...] = ...",
    check=check_process_settings,
)
