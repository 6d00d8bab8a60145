"""Garbage collection is paused during imports, whose objects are then excluded."""

import gc
import subprocess
import sys

import pytest

from skyrl_train.machine.gc_pause import many_imports


@pytest.fixture(autouse=True)
def collector():
    yield
    gc.enable()
    gc.unfreeze()


def test_collection_is_paused_and_existing_objects_are_then_excluded():
    before = gc.get_freeze_count()
    with many_imports("no_such_module"):
        assert not gc.isenabled()
        brought = [[number] for number in range(1000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= before + len(brought)


def test_nothing_changes_if_the_module_is_already_imported():
    before = gc.get_freeze_count()
    with many_imports("gc"):
        assert gc.isenabled()
    assert gc.get_freeze_count() == before


def test_a_disabled_collector_stays_disabled():
    gc.disable()
    with many_imports("no_such_module"):
        pass
    assert not gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_a_failed_import_enables_the_collector_again():
    with pytest.raises(ImportError), many_imports("no_such_module"):
        import no_such_module  # noqa: F401 - it does not exist
    assert gc.isenabled()


COUNTED = """
import gc, sys
from skyrl_train.machine.gc_pause import many_imports
collections = []
gc.callbacks.append(lambda phase, info: collections.append(info["generation"]) if phase == "start" else None)
if sys.argv[1] == "put off":
    with many_imports("skyrl_train.training.build"):
        import skyrl_train.training.build
else:
    import skyrl_train.training.build
print(len(collections))
"""


def test_the_imports_of_a_run_are_not_collected():
    def count(how):
        done = subprocess.run([sys.executable, "-c", COUNTED, how], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert count("as usual") > 100
    assert count("put off") < 20


AT_EXIT = """
import atexit, gc
atexit.register(lambda: print(gc.get_freeze_count()))  # registered first, so called last
from skyrl_train.machine.gc_pause import many_imports
with many_imports("no_such_module"):
    pass
print(gc.get_freeze_count() > 0)
"""


def test_at_exit_all_objects_are_collected_again():
    done = subprocess.run([sys.executable, "-c", AT_EXIT], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n0\n"
