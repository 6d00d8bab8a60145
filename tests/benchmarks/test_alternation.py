import sys

import pytest

# Ticks until the other one has had a turn between two of them, however long a turn is on a busy machine.
TICKS = """
import pathlib, sys, time
own, other = map(pathlib.Path, sys.argv[1:])
own.touch()
ticks, seen = [], set()
while len(ticks) < 40 or len(seen) < 2:
    time.sleep(0.01)
    ticks.append(time.time())
    seen.add(other.stat().st_size if other.exists() else 0)
    with own.open("a") as file:  # after the look at the other one, so that its end is seen there
        file.write(".")
print(*ticks)
"""


@pytest.fixture
def alternation(script):
    return script("alternation")


def test_one_process_runs_while_the_others_are_stopped(alternation, tmp_path):
    files = [str(tmp_path / name) for name in ("first", "second")]
    processes = [
        alternation.Alternating([sys.executable, "-c", TICKS, *order], {}, turn)
        for order, turn in ((files, 0.1), (files[::-1], 0.2))
    ]
    alternation.alternate(processes)
    ticks = [[float(tick) for tick in process.output.split()] for process in processes]
    assert all(len(found) >= 40 for found in ticks)
    for process, found, other in zip(processes, ticks, reversed(processes), strict=True):
        assert len(process.turns) >= 2
        # A signal may reach a process a moment after its turn.
        assert sum(other.alone(tick, tick) for tick in found) <= 2
        assert sum(process.alone(tick, tick) for tick in found) >= len(found) - 2


def test_a_step_that_was_interrupted_did_not_run_alone(alternation):
    process = alternation.Alternating([], {}, 1.0, turns=[(0.0, 1.0), (3.0, 4.0)])
    assert process.alone(0.2, 0.9)
    assert process.alone(3.0, 4.0)
    assert not process.alone(0.9, 3.1)
    assert not process.alone(1.5, 2.0)


def test_a_process_that_fails_ends_all_with_what_it_said(alternation):
    endless = alternation.Alternating([sys.executable, "-c", "while True: pass"], {}, 0.1)
    failing = alternation.Alternating([sys.executable, "-c", "import sys; sys.exit('no such model')"], {}, 5.0)
    with pytest.raises(SystemExit, match=r"exit code 1\nno such model"):
        alternation.alternate([endless, failing])
