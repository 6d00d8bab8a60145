"""The memory of this machine and of its GPUs, with a program in place of nvidia-smi."""

import pytest

from skyrl_train.machine import memory_limits
from skyrl_train.machine.memory_limits import gpu_memory, main_memory


@pytest.fixture
def gpus(tmp_path, monkeypatch):
    """Installs an nvidia-smi that prints these lines, and a torch that is not a CPU build."""

    def install(script: str) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        monkeypatch.setattr(memory_limits, "installed_version", lambda _: "2.13.0")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    return install


def test_main_memory_is_that_of_the_machine_or_less():
    with open("/proc/meminfo") as file:
        total = int(file.readline().split()[1]) * 1024
    assert 0 < main_memory() <= total + 4096


def test_a_container_limits_main_memory(tmp_path, monkeypatch):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory_limits, "CGROUP_LIMITS", (str(tmp_path / "none"), str(limit)))
    everything = main_memory()
    limit.write_text("max\n")
    assert main_memory() == everything
    limit.write_text("1000000\n")
    assert main_memory() == 1_000_000


def test_gpus_are_those_that_the_process_may_use(gpus, monkeypatch):
    gpus("echo 81559; echo 40960")
    assert gpu_memory() == [81559 * 2**20, 40960 * 2**20]
    for chosen, count in (("1", [40960]), ("", []), ("-1", []), ("GPU-8932f937", [81559])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
        assert gpu_memory() == [size * 2**20 for size in count]
    monkeypatch.setattr(memory_limits, "installed_version", lambda _: "2.13.0+cpu")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert gpu_memory() == []


@pytest.mark.parametrize("script", ["exit 9", "echo no devices were found", "sleep 60"])
def test_a_broken_driver_means_no_gpu(gpus, monkeypatch, script):
    monkeypatch.setattr(memory_limits, "QUERY_LIMIT", 0.2)
    gpus(script)
    assert gpu_memory() == []
