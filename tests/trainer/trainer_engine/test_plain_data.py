"""Files that would run code when they are unpickled: none of it runs, and the error names the file and the object."""

import os
import pickle

import pytest
import torch

from skyrl_core.errors import SkyrlError
from skyrl_train.trainer_engine.plain_data import FORBID_FORCE, FORCE, plain_data_only


class Exploit:
    """Creates a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def zipped(path, exploit):
    torch.save({"weights": torch.ones(2), "hidden": [exploit]}, path)


def legacy(path, exploit):
    torch.save(exploit, path, _use_new_zipfile_serialization=False)


def bare(path, exploit):
    path.write_bytes(pickle.dumps(exploit))


def a_module(path, exploit):
    torch.save({"weights": torch.ones(2), "hidden": torch.nn.Linear(2, 2)}, path)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.delenv(FORCE, raising=False)
    monkeypatch.setenv(FORBID_FORCE, "1")  # a user may have set it; it must not switch the protection off
    yield
    assert FORCE not in os.environ
    assert os.environ[FORBID_FORCE] == "1"


@pytest.mark.parametrize("write", [zipped, legacy, bare, a_module])
def test_nothing_in_a_file_runs_even_if_the_caller_asks_for_it(tmp_path, write):
    (tmp_path / "state").mkdir()
    torch.save(torch.ones(2), tmp_path / "state/a.pt")
    write(tmp_path / "state/b.pt", Exploit(tmp_path / "ran"))
    refusal = r"state/b\.pt (holds \S+|is not a file that this trainer wrote,) and was not"
    with pytest.raises(SkyrlError, match=refusal), plain_data_only(tmp_path):
        assert [torch.load(file, weights_only=False) for file in sorted((tmp_path / "state").iterdir())]
    assert not (tmp_path / "ran").exists()


def test_the_exploit_works_without_the_protection(tmp_path):
    zipped(tmp_path / "b.pt", Exploit(tmp_path / "ran"))
    torch.load(tmp_path / "b.pt", weights_only=False)
    assert (tmp_path / "ran").exists()


def test_tensors_and_plain_data_are_loaded(tmp_path):
    state = {"weights": torch.ones(2), "numbers": (1, 2.5, None, "text"), "nested": [{"a": True}]}
    torch.save(state, tmp_path / "a.pt")
    with plain_data_only(tmp_path):
        found = torch.load(tmp_path / "a.pt", weights_only=False)
    assert torch.equal(found.pop("weights"), state.pop("weights"))
    assert found == state
