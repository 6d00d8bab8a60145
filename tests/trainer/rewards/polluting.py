"""A reward that changes everything it can reach, or reports what it finds; reward workers import it."""

import builtins
import collections
import decimal
import json
import locale
import math
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import warnings
import zlib

count = 0
seen: list[str] = []
nested = {"words": ["a"], "table": {"a": {1, 2}}}
tally = collections.Counter("aab")
queue = collections.deque([1, 2], maxlen=3)
generator = random.Random(7)
model = None


def helper(value, memory=[]):  # noqa: B006 - a common mistake, which must not reach other rewards
    memory.append(value)
    return len(memory)


def closed_over():
    calls = 0

    def call():
        nonlocal calls
        calls += 1
        return calls

    return call


call = closed_over()


class Judge:
    scores: list[float] = []
    threshold = 0.5


def _globals(completion, row):
    global count, seen, added
    count += 1
    seen.append("x")
    seen = [*seen, "y"]
    added = 1
    nested["words"].append("b")
    nested["table"]["a"].clear()
    tally.update("zz")
    queue.append(9)
    generator.random()


def _row(completion, row):
    row.extra["tests"].append("changed")
    row.extra["new"] = 1
    row.prompt[0]["content"] = "changed"


def _functions(completion, row):
    helper(1)
    call()
    reward.count = 5
    Judge.scores.append(1.0)
    Judge.threshold = 0.9
    globals()["helper"] = lambda value: 42


def _environment(completion, row):
    os.chdir("/")
    os.environ["POLLUTED"] = "1"
    os.environ.pop("HOME", None)
    os.umask(0)
    sys.path.insert(0, "/nowhere")
    sys.argv[:] = ["changed"]


def _state(completion, row):
    random.seed(3)
    decimal.getcontext().prec = 3
    sys.setrecursionlimit(5000)
    sys.set_int_max_str_digits(9000)
    socket.setdefaulttimeout(0.001)
    warnings.simplefilter("error")
    locale.setlocale(locale.LC_ALL, "C.UTF-8")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def _patches(completion, row):  # as code that guards against generated programs does
    os.kill = os.getcwd = None
    shutil.rmtree = subprocess.Popen = None
    json.dumps = lambda value: "patched"
    math.pi = 3
    builtins.len = lambda value: 0
    builtins.print = None
    sys.stdout = sys.stderr = None
    sys.modules["json"] = None


def _fails(completion, row):
    _environment(completion, row)
    raise ValueError("after changes")


def _look(completion, row):
    found = (count, seen, nested, tally, queue, generator.random(), "added" in globals(), helper(0), call())
    code = (getattr(reward, "count", None), Judge.scores, Judge.threshold, helper.__name__, model)
    item = (row.extra, row.prompt, [random.random() for _ in range(3)])
    place = (os.getcwd(), sorted(os.environ.items()), sys.path, sys.argv, os.umask(0o22))
    limits = (sys.getrecursionlimit(), sys.get_int_max_str_digits(), socket.getdefaulttimeout())
    rest = (decimal.getcontext().prec, len(warnings.filters), locale.setlocale(locale.LC_ALL), signal.getsignal(15))
    functions = (os.kill, shutil.rmtree, subprocess.Popen, print)
    patched = ([getattr(each, "__name__", None) for each in functions], json.dumps([1]), math.pi, len("abc"))
    files = (resource.getrlimit(resource.RLIMIT_NOFILE), sys.stdout is None, sys.modules["json"] is json)
    os.umask(place[-1])
    # The order of a set of text, too: it differs between processes unless they have the same hash seed.
    return zlib.crc32(repr((found, code, item, place, limits, rest, patched, files, set("abcdefg"))).encode()) % 10**6


ACTIONS = {
    "globals": _globals,
    "row": _row,
    "functions": _functions,
    "environment": _environment,
    "state": _state,
    "patches": _patches,
    "fails": _fails,
}


def reward(completion, row):
    action = ACTIONS.get(completion.text)
    return _look(completion, row) if action is None else action(completion, row) or 0.0


def stores_a_model(completion, row):
    """Loads a model at its first call, as many rewards do, and counts its calls."""
    global model, count
    count += 1
    if model is None:
        model = Judge()
        model.loaded = os.getpid()
        model.calls = 0
    model.calls += 1
    return {"calls of the model": model.calls, "count": count}
