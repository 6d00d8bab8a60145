"""Which runs stay on the loopback interface."""

import os
import socket

import pytest

from skyrl_train.ranks.loopback import GLOO, NAMES, NCCL, are_on_one_machine, stay_on_this_machine


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in (GLOO, NCCL, "WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_SIZE"):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}, True),
        ({"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "8"}, True),
        ({"WORLD_SIZE": "8", "LOCAL_SIZE": "8"}, True),
        ({"WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8"}, False),
        ({"WORLD_SIZE": "16", "LOCAL_SIZE": "8"}, False),
        ({"WORLD_SIZE": "8"}, False),  # a scheduler may have spread them
        ({}, False),
    ],
)
def test_ranks_are_on_one_machine_only_if_the_launcher_says_so(variables, expected, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert are_on_one_machine() is expected


@pytest.mark.parametrize("nccl", [True, False])
def test_gloo_and_nccl_use_an_existing_loopback_interface(nccl):
    stay_on_this_machine(nccl=nccl)
    chosen = os.environ[GLOO]
    assert chosen in NAMES
    assert chosen in {name for _, name in socket.if_nameindex()}
    assert os.environ.get(NCCL) == (chosen if nccl else None)


def test_the_choice_of_the_user_stays(monkeypatch):
    monkeypatch.setenv(GLOO, "eth7")
    stay_on_this_machine(nccl=True)
    assert os.environ[GLOO] == "eth7"


def test_without_a_loopback_interface_nothing_is_set(monkeypatch):
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(1, "eth0")])
    stay_on_this_machine(nccl=True)
    assert GLOO not in os.environ
