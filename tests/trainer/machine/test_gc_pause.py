"""The garbage collector waits for imports, and leaves out what they have brought."""

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


def test_the_collector_waits_and_leaves_out_what_is_there_afterwards():
    before = gc.get_freeze_count()
    with many_imports("no_such_module"):
        assert not gc.isenabled()
        brought = [[number] for number in range(1000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= before + len(brought)


def test_nothing_changes_where_the_module_is_there_already():
    before = gc.get_freeze_count()
    with many_imports("gc"):
        assert gc.isenabled()
    assert gc.get_freeze_count() == before


def test_a_collector_that_is_switched_off_stays_so():
    gc.disable()
    with many_imports("no_such_module"):
        pass
    assert not gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_an_import_that_fails_switches_it_on_again():
    with pytest.raises(ImportError), many_imports("no_such_module"):
        import no_such_module  # noqa: F401 - it never arrives
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
atexit.register(lambda: print(gc.get_freeze_count()))  # the first that is registered is the last that is called
from skyrl_train.machine.gc_pause import many_imports
with many_imports("no_such_module"):
    pass
print(gc.get_freeze_count() > 0)
"""


def test_at_the_end_of_the_process_the_collector_sees_everything_again():
    done = subprocess.run([sys.executable, "-c", AT_EXIT], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n0\n"
