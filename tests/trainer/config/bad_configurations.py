"""Generates bad configurations by seed: files, overrides and command lines that no user should see a traceback for.

``python -m tests.trainer.config.bad_configurations 10000`` runs that many; ``--process`` starts the real command.
"""

import argparse
import contextlib
import io
import os
import random
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from unicodedata import category

from skyrl_core.cli.main import main as skyrl
from skyrl_core.registry import ESTIMATORS, LOSSES
from skyrl_train.config.block_options import find_block
from skyrl_train.config.options import all_options, all_sections

SECONDS = 5.0
LONGEST_LINE = 1100
"""Characters of a printed line: the limit of messages, and a prefix."""
CODES = (0, 2, 3, 4, 5, 7)
"""Exit codes of the commands that only check: success, the kinds of wrong configurations, and a dry run that misses
something on this machine."""


@dataclass(frozen=True)
class BadConfiguration:
    """A command line, and the text of the file `run.yaml` that it may name."""

    arguments: tuple[str, ...]
    text: str = ""


@dataclass(frozen=True)
class Outcome:
    """What the command did; ``fault`` is empty if it did what it should."""

    code: object
    fault: str
    seconds: float


def bad_configuration(seed: int) -> BadConfiguration:
    """The configuration of this seed."""
    dice = random.Random(seed)
    make = dice.choices(list(_MAKERS), weights=list(_MAKERS.values()))[0]
    return make(dice)


def _overrides(dice: random.Random) -> BadConfiguration:
    return BadConfiguration(("train", "--dry-run", *_assignments(dice)))


def _file(dice: random.Random) -> BadConfiguration:
    return BadConfiguration(("train", "--dry-run", "--config", "run.yaml", *_assignments(dice, 0, 1)), _yaml(dice))


def _loss_parameters(dice: random.Random) -> BadConfiguration:
    command, loss = dice.choice(("check", "signature")), dice.choice([*_losses(), "sum", _text(dice)])
    names = [*_parameters(loss), _key(dice)]
    values = [f"{dice.choice(names)}={_value(dice)}" for _ in range(dice.randint(1, 3))]
    # An unknown name, so that values that are valid by chance do not start minutes of work.
    given = [part for value in [*values, "no_such_parameter=1"] for part in ("--param", value)]
    return BadConfiguration(("losses", command, loss, *given))


def _loss_name(dice: random.Random) -> BadConfiguration:
    return BadConfiguration(("losses", dice.choice(("show", "schema", "check", "signature")), f"no_{_text(dice)}"))


def _evaluation(dice: random.Random) -> BadConfiguration:
    target = dice.choice(("tiny", _text(dice)))
    return BadConfiguration(("eval", target, *_assignments(dice), "evaluation.prompts=0"))


def _listing(dice: random.Random) -> BadConfiguration:
    words = [dice.choice((_key(dice), _text(dice))) for _ in range(dice.randint(1, 2))]
    return BadConfiguration(("config", *dice.choice(((), ("--json",), ("--yaml",), ("--markdown",))), *words))


def _path(dice: random.Random) -> BadConfiguration:
    path = _text(dice)
    return BadConfiguration(
        dice.choice(
            (
                ("train", "--dry-run", "--config", path),
                ("train", "--dry-run", "--resume", path),
                ("train", "--dry-run", "--loss", path),
                ("train", "--dry-run", "--num-processes", path),
                ("report", path),
                ("export", path),
                ("serve", "--dry-run", "--port", path),
                ("losses", "check", f"./{path}"),
                ("losses", "check", f"{path}:Class"),
                ("losses", "new", path, "--folder", "run.yaml"),
                (path,),
            )
        )
    )


_MAKERS: dict[Callable[[random.Random], BadConfiguration], int] = {
    _overrides: 35,
    _file: 25,
    _loss_parameters: 15,
    _loss_name: 3,
    _evaluation: 10,
    _listing: 5,
    _path: 7,
}


def _assignments(dice: random.Random, least: int = 1, most: int = 4) -> list[str]:
    return [f"{_key(dice)}={_value(dice)}" for _ in range(dice.randint(least, most))]


def _yaml(dice: random.Random) -> str:
    text = "".join(f"{_key(dice)}: {_value(dice)}\n" for _ in range(dice.randint(1, 6)))
    for _ in range(dice.choice((0, 0, 1, 3))):  # damage
        at = dice.randint(0, len(text))
        text = text[:at] + dice.choice((*_SCRAPS, text[:200])) + text[at + dice.choice((0, 0, 1, 7)) :]
    return text


def _key(dice: random.Random) -> str:
    known = dice.choice(_keys())
    return dice.choice(
        (
            *[known] * 12,
            known.rpartition(".")[0] or known,
            f"{known}.{dice.choice(_SCRAPS)}",
            known[: dice.randint(0, len(known))] + _text(dice),
            known.replace(".", ".."),
            ".".join([dice.choice(known.split("."))] * dice.choice((5, 65, 900))),
            _text(dice),
        )
    )


def _value(dice: random.Random, depth: int = 0) -> str:
    """A YAML text; nested at random, or very deep."""
    inner = dice.choice(_VALUES + _SCRAPS) if depth > 3 else None
    if inner is None and dice.random() < 0.3:
        inside = _value(dice, depth + 1)
        times = dice.choice((1, 2, 30, 70, 1500))
        return dice.choice(
            (
                f"[{inside}, {dice.choice(_VALUES)}]",
                f"{{{dice.choice(('a', 'schedule', 'terms', 'loss', 'x.y', dice.choice(_losses())))}: {inside}}}",
                "[" * times + inside + "]" * times,
                "{a: " * times + inside + "}" * times,
                _sums(dice, inside),
                f"{{schedule: {dice.choice(('linear', 'cosine', 'x'))}, start: {inside}, end: 0, steps: 2}}",
                f"{{schedule: piecewise, points: [[0, {inside}], [3, 1]]}}",
            )
        )
    return inner or dice.choice((dice.choice(_VALUES), dice.choice(_VALUES), _quoted(_text(dice)), _text(dice)))


def _sums(dice: random.Random, inside: str) -> str:
    """Terms of a loss `sum`, nested."""
    terms = f"[{{loss: {dice.choice(_losses())}, weight: {inside}}}]"
    for _ in range(dice.choice((0, 1, 5, 30, 300))):
        terms = f"[{{loss: sum, params: {{terms: {terms}}}}}]"
    return terms


def _text(dice: random.Random) -> str:
    """A text that is hard to print, to look up or to read."""
    return dice.choice(
        (
            dice.choice(_TEXTS),
            dice.choice(_TEXTS) + dice.choice(_SCRAPS),
            "".join(chr(dice.choice((dice.randint(1, 255), dice.randint(1, 0x10FFFF)))) for _ in range(5)),
            dice.choice("x9/.~[:@ é") * dice.choice((3, 300, 5000)),
        )
    )


def _quoted(text: str) -> str:
    escaped = "".join(f"\\U{ord(char):08x}" if not char.isalnum() else char for char in text)
    return f'"{escaped}"'


# fmt: off
_VALUES = (
    "", "null", "~", "true", "no", "0", "1", "-1", "1.0", "0.5", "-0.0", "1e-6", "1e400", "1_000", "1__0", "0b1",
    "010", ".nan", ".inf", "-.inf", "NaN", "'1'", "'0.5'", "'true'", "2020-01-01", "1:30", "[]", "{}", "[[]]",
    "[1, 2, 3]", str(2**63), str(2**64), str(-(2**70)), "9" * 400, "9" * 5000, "-" + "8" * 5000, "0x" + "f" * 5000,
    "0o7", "1." + "3" * 4000, "!!bool maybe", "!!int word", "!!float ''", "!!null x", "!!timestamp x", "!!binary é",
    "!!set {a}", "!mine 1", "!!python/object:os.system {}", "&a [*a]", "&a {b: *a}", "*b", "{<<: 1}",
    "{<<: [{a: 1}]}", "[", "}", "'", '"', "a: b: c", "{a: 1, a: 2}", "? [x]", "{[x]: 1}", "|\n  x", "- 1", "%TAG",
    "@x", "`x`", "{1: 2, true: 3}", "[" + "1, " * 3000 + "1]", "[http://a]b]", "['http://a]b']", "['http://[::1']",
    "['http://a:99999']", "['http://a b:80']", "[x, x]", "['']", "[null]", "{schedule: linear}", "{schedule: 1}",
    "{schedule: null}", "{schedule: [x]}", "{enable_thinking: .nan}", "{x: " + "y" * 3000 + "}",
)
# fmt: on
# fmt: off
_TEXTS = (
    "~nosuchuser", "~nosuchuser/x.jsonl", "~", "/x/y", "/proc/self/mem", "/dev/null", "..", ".", "/", "//", "x\0y",
    "\0", "a/b/c", "a:b", "a:b:c", ":", "::", "@", "@1", "gspo@x", "gspo@9", "gspo@" + "9" * 5000, "__main__:f",
    "os:system", "os:nothing", "x.py:f", "~x.py:f", "\0.py:f", "*.jsonl", "[.jsonl", "**", "\0*",
    "a" * 300 + ".jsonl", "x.parquet", "http://a]b", "http://x:99999", "\x1b[31mred\x1b[0m", "\x1b]0;title\x07",
    "\x9b2J", "\r\n", "\u202egnp.exe", "\ud800", "\udc80", "\ufeff", "\U0010ffff", "漢字", "--x", "-", "--", "-9", "=",
    "==", "+", "~x", "x=", "=x", "%s", "{0}", "${HOME}", "$(id)", "'", '"', "\\", "#", "a b", "",
)
# fmt: on
# fmt: off
_SCRAPS = (
    ".", ":", ": ", "\n", "\n  ", "\t", " ", "-", "- ", "#", "'", '"', "[", "]", "{", "}", ",", "&a ", "*a", "!!",
    "|", ">", "%", "@", "\x00", "\x1b[2J", "\x85", "\u2028", "\ud83d", "é", "\n---\n", "\n...\n", "<<: *a\n", "? ",
    "a: &a [*a]\n", "=", "~",
)
# fmt: on


@cache
def _keys() -> list[str]:
    plugins = [*LOSSES.rows(), *ESTIMATORS.rows()]
    blocks = [f"trainer.algorithm.{row.name}.{name}" for row in plugins for name in _parameters(row.name)]
    return [*(option.key for option in all_options()), *filter(None, all_sections()), *blocks]


@cache
def _losses() -> list[str]:
    return [row.name for row in LOSSES.rows()]


@cache
def _parameters(name: str) -> list[str]:
    block = find_block(name) if name in {row.name for row in [*LOSSES.rows(), *ESTIMATORS.rows()]} else None
    return [option.key.rpartition(".")[2] for option in block.options] if block else []


def run_here(case: BadConfiguration, folder: Path) -> Outcome:
    """Run the command in this process, whose current folder is the given one."""
    (folder / "run.yaml").write_bytes(case.text.encode("utf-8", "surrogatepass"))
    out, start = io.StringIO(), time.process_time()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            code: object = skyrl(case.arguments)
    except SystemExit as stop:
        code = stop.code
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is a fault
        frame = traceback.extract_tb(error.__traceback__)[-1]
        why = f"{type(error).__name__}: {str(error)[:200]!r} in {frame.filename}:{frame.lineno}"
        return Outcome("traceback", why, time.process_time() - start)
    seconds = time.process_time() - start
    return Outcome(code, _fault(code, out.getvalue(), seconds), seconds)


def run_process(case: BadConfiguration, folder: Path) -> Outcome:
    """Run the command as a user does; arguments that no process can have are dropped."""
    (folder / "run.yaml").write_bytes(case.text.encode("utf-8", "surrogatepass"))
    arguments = [os.fsencode(each.replace("\0", "")) for each in map(_encodable, case.arguments)]
    start = time.monotonic()
    command = [sys.executable, "-m", "skyrl_core", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    seconds = time.monotonic() - start
    output = (done.stdout + done.stderr).decode(errors="replace")
    fault = "traceback" if "Traceback (most recent" in output else _fault(done.returncode, output, 0.0)
    return Outcome(done.returncode, f"{fault} {output[-300:]!r}" if fault else "", seconds)


def _encodable(text: str) -> str:
    return text.encode("utf-8", "ignore").decode()


def _fault(code: object, output: str, seconds: float) -> str:
    if code not in CODES:
        return f"exit code {code}"
    if seconds > SECONDS:
        return f"took {seconds:.1f} s"
    harmless = ("\n", "\u200c", "\u200d")
    raw = [char for char in output if not char.isprintable() and char not in harmless and category(char) != "Zs"]
    if raw:
        return f"printed {raw[0]!r}"
    longest = max(map(len, output.split("\n")))
    return f"printed a line of {longest} characters" if longest > LONGEST_LINE else ""


def main() -> int:
    """Run the configurations of seeds from 0 on, print faults as they come, and count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--process", action="store_true", help="start a process for each")
    given = parser.parse_args()
    run, codes, faults, slowest = run_process if given.process else run_here, Counter[object](), 0, (0.0, 0)
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        run(bad_configuration(0), Path(name))  # imports
        for seed in range(given.start, given.start + given.count):
            outcome = run(bad_configuration(seed), Path(name))
            codes[outcome.code] += 1
            slowest = max(slowest, (outcome.seconds, seed))
            if outcome.fault:
                faults += 1
                print(f"seed {seed}: {outcome.fault}", flush=True)
    print(f"{given.count:,} configurations, {faults} faults, exit codes {dict(codes)}, slowest {slowest}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
