"""A run on two machines: network namespaces with separate addresses, a virtual cable, and a launcher in each."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.ranks

MODULE = ["-m", "skyrl_train.entrypoints.main_base"]
TORCHRUN = str(Path(sys.executable).parent / "torchrun")
ADDRESSES = ("10.203.7.1", "10.203.7.2")  # only visible inside the two namespaces
PORT = "29400"


class Machine:
    """One machine: a namespace, its end of the cable, and the command that launches a rank there."""

    def __init__(self, number, name):
        self.number, self.name, self.link = number, name, f"{name}v"
        self.address = ADDRESSES[number]

    def launch(self, program):
        options = ["--nnodes", "2", "--nproc-per-node", "1", "--node-rank", str(self.number)]
        options += ["--master-addr", ADDRESSES[0], "--master-port", PORT]
        return ["ip", "netns", "exec", self.name, TORCHRUN, *options, *program]


def ip(*arguments):
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if "not permitted" in done.stderr:
        pytest.skip(f"two machines need network namespaces: ip {' '.join(arguments)}: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr


@pytest.fixture
def machines():
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("two machines need network namespaces: the command `ip` (package iproute2) and root")
    base = f"sk{secrets.token_hex(4)}"  # a network link's name has at most 15 characters, suffix included
    pair = [Machine(number, f"{base}{letter}") for number, letter in enumerate("ab")]
    try:
        for machine in pair:
            ip("netns", "add", machine.name)
        first, second = pair
        ip(*f"link add {first.link} netns {first.name} type veth peer name {second.link} netns {second.name}".split())
        for machine in pair:
            ip("-n", machine.name, "address", "add", f"{machine.address}/24", "dev", machine.link)
            for link in ("lo", machine.link):
                ip("-n", machine.name, "link", "set", link, "up")
        yield pair
    finally:
        for machine in pair:
            subprocess.run(["ip", "netns", "delete", machine.name], capture_output=True, check=False)


@pytest.fixture
def on_both(machines, start):
    """Start the launcher of each machine, with the same options."""

    def run(options):
        return [
            start(machine.launch(MODULE), options, log=f"machine_{machine.number}", GLOO_SOCKET_IFNAME=machine.link)
            for machine in machines
        ]

    return run


def test_two_machines_give_the_numbers_of_one_process(on_both, start, tiny_run):
    options = tiny_run({"trainer.minibatches": 2, "evaluation.prompts": 0})
    runs = on_both(options)
    assert [run.exit_code() for run in runs] == [0, 0], runs[0].stderr + runs[1].stderr
    single = start([sys.executable, *MODULE], options, name="single")
    assert single.exit_code() == 0, single.stderr
    assert runs[0].run["world_size"] == 2
    first, wanted = runs[0].rows[0], single.rows[0]
    assert first["reward/mean"] == wanted["reward/mean"]
    for name in ("loss/total", "grad_norm", "ratio_max", "approx_kl", "response_length/mean"):
        assert first[name] == pytest.approx(wanted[name], rel=1e-4, abs=1e-6), name


def test_a_signal_to_one_machine_stops_both_after_the_same_step(on_both, tiny_run):
    first, second = on_both(tiny_run({"trainer.steps": 200, "evaluation.prompts": 0}))
    first.until_step(2)
    second.send(signal.SIGTERM)
    assert second.exit_code() != 0
    assert first.exit_code() != 0
    last = first.run["last_step"]
    assert (first.run["outcome"], last < 200) == ("interrupted", True)
    assert (first.folder / "checkpoints" / f"step_{last:06d}").is_dir()
    assert f'--nnodes 2 --node-rank "$NODE_RANK" --master-addr {ADDRESSES[0]}' in first.run["resume_command"]
