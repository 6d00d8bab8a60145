import json
import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")

PROGRAM = """
import json, sys, torch
from skyrl_train.machine.malloc import keep_freed_memory
kept = sys.argv[1] == "keep" and keep_freed_memory()
def heap():
    ends = [line.split()[0].split("-") for line in open("/proc/self/maps") if line.endswith("[heap]\\n")]
    return range(*(int(end, 16) for end in ends[0]))
tensors = [torch.ones(31 * 2**18) for _ in range(8)]  # 31 MiB each
inside = [tensor.data_ptr() in heap() for tensor in tensors]
tensors.clear()
print(json.dumps([kept, inside, len(heap())]))
"""


def run(how, **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    command = [sys.executable, "-c", PROGRAM, how]
    return json.loads(subprocess.run(command, capture_output=True, check=True, env=clean | environment).stdout)


def test_large_tensors_use_the_heap_which_is_kept():
    kept, inside, size = run("keep")
    assert kept
    assert all(inside)
    assert size > 8 * 31 * 2**20


def test_without_it_the_first_large_tensors_come_from_the_system():
    kept, inside, _ = run("as it is")
    assert not kept
    assert not any(inside)


@pytest.mark.parametrize(
    "environment", [{"MALLOC_ARENA_MAX": "2"}, {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=1000000"}]
)
def test_a_tuned_malloc_is_not_changed(environment):
    kept, inside, _ = run("keep", **environment)
    assert not kept
    assert not any(inside)
