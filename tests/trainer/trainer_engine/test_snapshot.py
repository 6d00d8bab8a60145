"""Snapshots in memory: their files equal those that torch.save would have written at the time of the snapshot."""

import pytest
import torch

from skyrl_train.trainer_engine.snapshot import Memory, Snapshot, copied


class Scaler:
    """An object of a library, which is pickled."""

    def __init__(self) -> None:
        self.scale, self.seen = 1.0, [torch.zeros(2)]


@pytest.fixture
def state():
    flat = torch.arange(12.0)
    parameter = torch.nn.Parameter(torch.ones(2, 2))
    parameter.note = "an attribute, as ZeRO-3 leaves them"
    return {
        "views": [flat[:4].view(2, 2), flat[4:10], flat.view(3, 4).T],
        "bf16": torch.full((3,), 0.1, dtype=torch.bfloat16),
        "frozen": torch.nn.Parameter(torch.ones(3), requires_grad=False),
        "parameter": parameter,
        "twice": [parameter, parameter],
        "empty": [torch.empty(0), torch.empty(0, dtype=torch.int64)],
        "object": Scaler(),
        "group": {"lr": 0.1, "betas": (0.9, 0.95)},
    }


def mutate(state) -> None:
    """Change the state as a training step does: tensors in place, numbers in the same dicts and objects."""
    with torch.no_grad():
        for tensor in (
            *state["views"][:2],
            state["bf16"],
            state["frozen"],
            state["parameter"],
            state["object"].seen[0],
        ):
            tensor.add_(7)
    state["group"]["lr"] = state["object"].scale = 0.5


def test_the_file_has_the_state_at_the_time_it_was_added(state, tmp_path):
    wanted, file = tmp_path / "wanted" / "state.pt", tmp_path / "written" / "state.pt"
    wanted.parent.mkdir()
    torch.save(state, wanted)
    snapshot = Snapshot()
    snapshot.add(file, state)
    assert not file.parent.exists()
    mutate(state)
    snapshot.write()
    assert file.read_bytes() == wanted.read_bytes()


def test_tensors_that_share_memory_share_it_in_the_copy_only(state):
    copy, memory = copied(state, Memory())
    addresses = {view.untyped_storage().data_ptr() for view in copy["views"]}
    assert len(addresses) == 1
    assert sum(part.nbytes() == 12 * 4 for part in memory) == 1
    assert addresses != {state["views"][0].untyped_storage().data_ptr()}
    assert copy["twice"][0] is copy["twice"][1] is copy["parameter"]
    assert [tensor.dtype for tensor in copy["empty"]] == [torch.float32, torch.int64]


def test_the_next_snapshot_reuses_the_memory_of_a_written_one(tmp_path):
    memory, weight, addresses = Memory(), torch.zeros(1000), []
    for step in range(3):
        weight.fill_(step)
        snapshot = Snapshot(memory)
        snapshot.add(tmp_path / str(step), {"weight": weight, "step": torch.tensor(step)})
        addresses.append({copy.data_ptr() for _, copies in snapshot._states.values() for copy in copies})
        weight.fill_(-1)
        snapshot.write()
        assert snapshot.files == []
    assert addresses[0] == addresses[1] == addresses[2]
    assert len(addresses[0]) == 2
    for step in range(3):
        assert torch.load(tmp_path / str(step))["weight"].unique().tolist() == [step]


def test_unneeded_memory_is_released(tmp_path):
    memory = Memory()
    for size in (1000, 2000):
        snapshot = Snapshot(memory)
        snapshot.add(tmp_path / "state", torch.zeros(size))
        memory.trim()
        snapshot.write()
    assert [part.nbytes() for free in memory._free.values() for part in free] == [2000 * 4]
