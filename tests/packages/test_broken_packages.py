"""Broken, hostile and colliding packages: real wheels, installed by pip, then damaged on disk, all in one environment.

Each kind is one row in an intact listing, and one error message when it is selected. Every module writes a file when
it is imported, so that an import without selection is detected.
"""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sysconfig
import venv
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.packages

LOSSES, PARAMS, COMMANDS = "skyrl.policy_losses", "skyrl.policy_loss_params", "skyrl.commands"
TOUCH = "open(SENTINEL, 'a').close()\n"
LOSS = f'''"""A healthy loss."""
{TOUCH}
from skyrl_core import PolicyLoss, TokenLosses
from PACKAGE.params import Params

class Loss(PolicyLoss):
    name = "NAME"
    Params = Params
    api_version = 1
    semantics_version = 1
    reference = "Williams (1992)"

    def token_losses(self, batch):
        return TokenLosses(values=-batch.log_probs * batch.advantages)
'''
SCHEMA = f"{TOUCH}from skyrl_core import LossParams\nclass Params(LossParams): pass\n"
UNTYPED = f"""{TOUCH}
from skyrl_core import PolicyLoss
class Loss(PolicyLoss):
    def compute_loss(self, log_probs, old_log_probs, advantages, masks, **kwargs):
        return -(log_probs * advantages * masks).sum() / masks.sum()
"""
HOSTILE = "\x1b[2J\x1b]0;owned\x07red\r\u202eevil\u2028second line\x85third\x9b31m\x00"
DIGITS = "9" * 5000

Damage = Callable[["Kind", Path, Path], None]
"""A change to the package folder and the dist-info folder of a kind, after pip has installed it."""


@dataclass(frozen=True)
class Kind:
    """A package that is broken in one way, or only looks broken."""

    name: str
    """The name of the loss; the distribution is kind-NAME, the package kind_NAME."""
    status: str
    code: int
    """The exit code of a command that selects it."""
    message: str = ""
    """A pattern in the row's reason unless the status is ok, and in the error on selection."""
    loss: str = LOSS
    params: str | None = SCHEMA
    value: str = "PACKAGE.loss:Loss"
    params_value: str = "PACKAGE.params:Params"
    entry_points: str | bytes = ""
    """Replaces the installed entry_points.txt."""
    metadata: str = ""
    """Additional headers in the METADATA of the wheel."""
    summary: str = "A kind."
    damage: Damage | None = None
    row: str = ""
    """The name as the listing shows it, if it differs."""

    @property
    def distribution(self) -> str:
        return f"kind-{self.name.replace('_', '-')}"

    @property
    def package(self) -> str:
        return f"kind_{self.name}"

    def filled(self, text: str, sentinels: Path = Path()) -> str:
        """Fill a template with the names of this kind."""
        text = text.replace("PACKAGE", self.package).replace("NAME", self.name)
        return text.replace("SENTINEL", repr(str(sentinels / self.package)))


def write(file: str, content: str | bytes) -> Damage:
    """Overwrite a file of the dist-info folder."""

    def damage(kind: Kind, _: Path, info: Path) -> None:
        (info / file).write_bytes(content if isinstance(content, bytes) else kind.filled(content).encode())

    return damage


def delete(file: str) -> Damage:
    return lambda kind, package, info: (info / file).unlink()


def truncate(kind: Kind, package: Path, info: Path) -> None:
    source = (package / "loss.py").read_text()
    (package / "loss.py").write_text(source[: source.index("TokenLosses(") + len("TokenLosses(")])


def remove_package(kind: Kind, package: Path, info: Path) -> None:
    shutil.rmtree(package)


def loop_package(kind: Kind, package: Path, info: Path) -> None:
    shutil.rmtree(package)
    package.symlink_to(package)


def without_init(kind: Kind, package: Path, info: Path) -> None:
    (package / "__init__.py").unlink()


def to_egg_info(kind: Kind, package: Path, info: Path) -> None:
    egg = info.with_name(f"{kind.package}-1.0-py3.11.egg-info")
    egg.mkdir()
    (info / "METADATA").rename(egg / "PKG-INFO")
    (info / "entry_points.txt").rename(egg / "entry_points.txt")
    shutil.rmtree(info)


def to_zip(kind: Kind, package: Path, info: Path) -> None:
    """Make the package importable from a zip file, as from a wheel on the path."""
    site = info.parent
    with zipfile.ZipFile(site / "zipped.zip", "w") as archive:
        for folder in (package, info):
            for file in sorted(folder.rglob("*")):
                archive.write(file, file.relative_to(site))
    shutil.rmtree(package)
    shutil.rmtree(info)
    (site / "zipped.pth").write_text("zipped.zip\n")


def older_copy(kind: Kind, package: Path, info: Path) -> None:
    """Simulate an interrupted upgrade: two dist-info folders of one distribution, in two spellings."""
    other = info.with_name(f"{kind.package.upper()}-0.9.dist-info")
    shutil.copytree(info, other)
    (other / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {kind.package.upper()}\nVersion: 0.9\n")


def fails(source: str) -> str:
    """Return the module of a loss that runs this code on import."""
    return f"{TOUCH}{source}\n{LOSS}"


def line(value: str, name: str = "NAME") -> str:
    """Return an entry_points.txt with one loss and its schema."""
    return f"[{LOSSES}]\n{name} = {value}\n[{PARAMS}]\nNAME = PACKAGE.params:Params\n"


GOOD = line("PACKAGE.loss:Loss")
HEADER = "Metadata-Version: 2.1\nName: kind-NAME\nVersion: 1.0\n"

METADATA_KINDS = [
    Kind("no_metadata", "broken", 5, "has no METADATA .*delete that folder", damage=delete("METADATA")),
    Kind("empty_metadata", "broken", 5, "has no METADATA", damage=write("METADATA", "")),
    Kind("no_name", "broken", 5, "has no name in its METADATA", damage=write("METADATA", "Metadata-Version: 2.1\n")),
    Kind("no_version", "ok", 0, damage=write("METADATA", "Metadata-Version: 2.1\nName: kind-NAME\n")),
    Kind("no_record", "ok", 0, damage=delete("RECORD")),
    Kind("latin_metadata", "ok", 0, damage=write("METADATA", HEADER.encode() + b"Author: Andr\xe9\n")),
    Kind("shell_name", "broken", 5, "is not a valid name", damage=write("METADATA", "Name: a; rm -rf ~\n")),
    Kind("huge_distribution", "broken", 5, "is not a valid name", damage=write("METADATA", f"Name: {'d' * 10_000}\n")),
    Kind("script_name", "broken", 5, "'script' is not a valid", damage=write("METADATA", "Name: script\nVersion: 1\n")),
    Kind("huge_version", "ok", 0, damage=write("METADATA", f"Name: kind-NAME\nVersion: 1.{'0' * 10_000}\n")),
    Kind("huge_metadata", "ok", 0, damage=write("METADATA", f"{HEADER}Author: {'a' * 5_000_000}\n")),
    Kind("two_versions", "broken", 5, "KIND_TWO_VERSIONS 0.9 and .* 1.0 are both in", damage=older_copy),
]
ENTRY_POINT_KINDS = [
    Kind("bad_value", "broken", 5, "'not a ref!!' is not of the form module:Name", entry_points=line("not a ref!!")),
    Kind("no_value", "broken", 5, "'' is not of the form", entry_points=line("")),
    Kind("extras", "broken", 5, r"Loss \[gpu\]' is not of the form", entry_points=line("PACKAGE.loss:Loss [gpu]")),
    Kind("nested", "broken", 5, r"Loss\.Inner' is not of the form", entry_points=line("PACKAGE.loss:Loss.Inner")),
    Kind("cut_off", "broken", 5, "'kind_cut_o' is not of", entry_points=f"[{LOSSES}]\ncut_off = kind_cut_o"),
    Kind("same_name_twice", "broken", 5, "as a:B and as PACKAGE.loss:Loss", entry_points=line("a:B") + GOOD),
    Kind("same_line_twice", "ok", 0, entry_points=GOOD + GOOD),
    Kind(
        "many",
        "broken",
        5,
        "declares more than 500 plugins",
        entry_points=GOOD + "".join(f"m{i} = a:B\n" for i in range(5 * 10**4)),
    ),
    Kind("upper", "broken", 5, "'Upper' is not a valid name", entry_points=line("a:B", "Upper"), row="Upper"),
    Kind("long_name", "broken", 5, "is not a valid name", entry_points=line("a:B", "n" * 10_000), row="n" * 63 + "…"),
    Kind("escapes", "broken", 5, "not a valid name", entry_points=line("a:B", "x\x1b[2Jy\u202ez-\x9bw"), row="xyz-w"),
    Kind("emoji", "broken", 5, "not a valid name", entry_points=line("a:B", "emoji_🔥漢字"), row="emoji_🔥漢字"),
    Kind("long_value", "broken", 5, "is not of the form", entry_points=line("a:" + "b" * 10_000)),
    Kind("hostile_value", "broken", 5, "is not of the form", entry_points=line("\x1b[2J\u202eevil")),
]
# Python cannot read these, which breaks every program that looks for plugins, so they get a separate environment.
POISON = "Python cannot read its entry_points.txt"
POISON_KINDS = [
    Kind("no_equals", "broken", 5, POISON, entry_points=f"[{LOSSES}]\nno_equals\n"),
    Kind("open_header", "broken", 5, POISON, entry_points=GOOD.replace(f"[{PARAMS}]", f"[{PARAMS}")),
    Kind("not_utf8", "broken", 5, POISON, entry_points=f"[{LOSSES}]\nnot_utf8 = a:Caf".encode() + b"\xe9\n"),
]
TEXT_KINDS = [
    Kind("huge_summary", "ok", 0, loss=LOSS.partition("\n")[2], summary="s" * 1_000_000),
    Kind("hostile_summary", "ok", 0, loss=LOSS.partition("\n")[2], summary=HOSTILE.replace("\r", "")),
    Kind("hostile_docstring", "ok", 0, loss=LOSS.replace("A healthy loss.", HOSTILE.replace("\0", ""))),
    Kind("hostile_constant", "ok", 0, loss=LOSS.replace("Williams (1992)", "\\x1b[2J\\u202eevil")),
]
INSTALL_KINDS = [
    Kind(
        "missing_package",
        "broken",
        5,
        r"'kind_missing_package' cannot be found.* from file://.*\.whl: reinstall it",
        damage=remove_package,
    ),
    Kind("symlink_loop", "broken", 5, "'kind_symlink_loop' cannot be found", damage=loop_package),
    Kind("missing_module", "ok", 5, "No module named 'kind_missing_module.gone'", value="PACKAGE.gone:Loss"),
    Kind("missing_class", "ok", 5, "has no attribute 'Lost'", value="PACKAGE.loss:Lost"),
    Kind("no_init", "ok", 0, damage=without_init),
    Kind("egg_info", "ok", 0, damage=to_egg_info),
    Kind("zipped", "ok", 0, damage=to_zip),
]
IMPORT_KINDS = [
    Kind("truncated", "ok", 5, r"SyntaxError: '\(' was never closed", damage=truncate),
    Kind("syntax_error", "ok", 5, "SyntaxError: invalid syntax", loss="def broken(:"),
    Kind("null_bytes", "ok", 5, "null bytes", loss="\0"),
    Kind("import_error", "ok", 5, "ImportError: cannot import name 'gone'", loss=fails("from json import gone")),
    Kind("no_dependency", "ok", 5, "No module named 'no_such_module'", loss=fails("import no_such_module")),
    Kind("system_exit", "ok", 5, "SystemExit: 0", loss=fails("import sys; sys.exit(0)")),
    Kind("base_exception", "ok", 5, "Own: why", loss=fails("class Own(BaseException): pass\nraise Own('why')")),
    Kind("recursion", "ok", 5, "RecursionError", loss=fails("def again(): again()\nagain()")),
    Kind("long_error", "ok", 5, "ValueError: e{300}", loss=fails("raise ValueError('e' * 10**6)")),
    Kind("hostile_error", "ok", 5, "evil", loss=fails("raise ValueError('\\x1b[2J\\u202e\\rone\\nevil')")),
    Kind("silent_error", "ok", 5, "Own", loss=fails("class Own(Exception):\n def __str__(self): 1/0\nraise Own")),
    Kind("prints", "ok", 0, loss=fails("print('noise on stdout')"), params=f"{SCHEMA}\nprint('more noise')"),
    Kind("ctrl_c", "ok", 130, "interrupted", loss=fails("raise KeyboardInterrupt")),
    # Nothing can prevent this: a selected plugin runs with all privileges.
    Kind("hard_exit", "ok", 41, loss=fails("import os; os._exit(41)")),
]
CONTRACT_KINDS = [
    Kind("number", "ok", 5, "is 42, not a subclass of PolicyLoss", loss=f"{TOUCH}Loss = 42"),
    Kind("plain_class", "ok", 5, "not a subclass of PolicyLoss", loss=f"{TOUCH}class Loss: pass"),
    Kind("instance", "ok", 5, "not a subclass of PolicyLoss", loss=f"{LOSS}Loss = Loss(Params())"),
    Kind(
        "other_api",
        "ok",
        3,
        "version 99 of the loss contract",
        loss=LOSS.replace("api_version = 1", "api_version = 99"),
    ),
    Kind("no_api", "ok", 5, "add `api_version", loss=LOSS.replace("api_version = 1", "")),
    Kind("other_name", "ok", 5, "make it 'other_name'", loss=LOSS.replace('"NAME"', '"another"')),
    Kind(
        "bad_init",
        "ok",
        5,
        "RuntimeError: no",
        loss=f"{LOSS}\n    def __init__(self, params): raise RuntimeError('no')",
    ),
]
SCHEMA_KINDS = [
    Kind("untyped", "untyped", 0, loss=UNTYPED, entry_points=f"[{LOSSES}]\nuntyped = PACKAGE.loss:Loss\n"),
    Kind("params_torch", "ok", 0, params=f"import torch\n{SCHEMA}"),
    Kind("params_fail", "ok", 5, "ZeroDivisionError", params=f"{TOUCH}1/0"),
    Kind("params_exit", "ok", 5, "SystemExit", params=f"{TOUCH}raise SystemExit"),
    Kind("params_number", "ok", 5, "not a subclass of LossParams", params=f"{SCHEMA}Params = 1"),
    Kind("params_plain", "ok", 5, "not a subclass of LossParams", params=f"{TOUCH}class Params: pass"),
    Kind("params_other", "ok", 5, "the same class in both", loss=f"{LOSS}\nclass P(Params): pass\nLoss.Params = P"),
    Kind("params_needed", "ok", 4, "coef = None: is required", params=SCHEMA.replace("pass", "coef: float")),
    Kind("params_value", "broken", 5, f"in {PARAMS}: .*'a b' is not of", params_value="a b"),
    Kind("params_package", "broken", 5, f"in {PARAMS}: package 'gone' cannot be", params_value="gone.params:Params"),
]
REQUIREMENT_KINDS = [
    Kind("future_core", "incompatible", 3, "requires skyrl-core>=98,<99", metadata="Requires-Dist: skyrl-core>=98,<99"),
    Kind("core_extra", "incompatible", 3, "requires skyrl-core>=98", metadata="Requires-Dist: skyrl_core[x] (>=98)"),
    Kind("bad_specifier", "ok", 0, damage=write("METADATA", f"{HEADER}Requires-Dist: skyrl-core >=banana\n")),
    Kind("no_requirement", "ok", 0, damage=write("METADATA", f"{HEADER}Requires-Dist: ;;; \n")),
    Kind("url_requirement", "ok", 0, metadata="Requires-Dist: skyrl-core @ https://example.org/core.whl"),
    Kind("long_requirement", "ok", 0, damage=write("METADATA", f"{HEADER}Requires-Dist: skyrl-core<{DIGITS}\n")),
]
KINDS = [
    *METADATA_KINDS,
    *ENTRY_POINT_KINDS,
    *TEXT_KINDS,
    *INSTALL_KINDS,
    *IMPORT_KINDS,
    *CONTRACT_KINDS,
    *SCHEMA_KINDS,
    *REQUIREMENT_KINDS,
]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)

# A command plugin that calls `load_policy_loss`.
SELECTOR = """
import json
from skyrl_core import load_policy_loss

def main(argv):
    print(json.dumps({"name": load_policy_loss(argv[0]).name}))
    return 0
"""

# One process that has imported torch forks a child for each command, which saves a second each.
SELECTIONS = """
import json, os, sys, traceback
from pathlib import Path
import skyrl_core.conformance
from skyrl_core.cli.main import main
from skyrl_core.discovery.installed import installed_distributions

installed_distributions()

commands, sentinels, outputs = json.loads(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
results = {}
for name, arguments in commands.items():
    streams = [outputs / "stdout", outputs / "stderr"]
    if not (child := os.fork()):
        for number, stream in enumerate(streams, 1):
            os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        try:
            code = main(arguments)
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    imported = sorted(file.name for file in sentinels.iterdir())
    for file in sentinels.iterdir():
        file.unlink()
    results[name] = [code, *(stream.read_text() for stream in streams), imported]
print(json.dumps(results))
"""


class Site:
    """A virtual environment that sees the packages under test and the dependencies of this one."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder / "venv", symlinks=True)
        self.python = str(folder / "venv" / "bin" / "python")
        self.path = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "venv")}))
        self.sentinels = folder / "sentinels"
        self.wheels = folder / "wheels"
        self.outputs = folder / "outputs"
        for each in (self.sentinels, self.wheels, self.outputs):
            each.mkdir()
        (self.path / "tested.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")

    def run(self, *command: str, **settings: str) -> "subprocess.CompletedProcess[str]":
        inherited = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("PIP_", "PYTHON", "COLUMNS", "LINES"))
        }
        environment = {**inherited, "PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **settings}
        return subprocess.run(
            [self.python, *command], env=environment, cwd=self.outputs, capture_output=True, text=True, check=False
        )

    def pip(self, *arguments: str) -> None:
        done = self.run("-m", "pip", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr

    def install(self, wheels: Iterable[str]) -> None:
        self.pip("install", "--quiet", "--no-deps", "--no-index", "--no-compile", *wheels)

    def skyrl(self, *arguments: str, **settings: str) -> "subprocess.CompletedProcess[str]":
        return self.run("-m", "skyrl_core.cli.main", *arguments, **settings)

    def rows(self, *arguments: str, command: str = "losses") -> list[dict[str, str]]:
        done = self.skyrl(command, "list", "--json", *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        rows: list[dict[str, str]] = json.loads(done.stdout)[command]
        return rows

    def select(self, commands: Mapping[str, list[str]]) -> dict[str, tuple[int, str, str, list[str]]]:
        """Run each command; return exit code, stdout, stderr and the imported packages."""
        done = self.run("-c", SELECTIONS, json.dumps(commands), str(self.sentinels), str(self.outputs))
        assert done.returncode == 0, done.stderr
        return {name: tuple(result) for name, result in json.loads(done.stdout).items()}

    def write_wheel(
        self, distribution: str, modules: Mapping[str, str], entry_points: str, headers: str = "", version: str = "1.0"
    ) -> str:
        """Write a wheel by the specification, with the hash of every file."""
        stem = f"{distribution.replace('-', '_')}-{version}"
        files = {
            **modules,
            f"{stem}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n{headers}",
            f"{stem}.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{stem}.dist-info/entry_points.txt": entry_points,
        }
        record = [f"{name},sha256={_digest(content)},{len(content.encode())}" for name, content in files.items()]
        files[f"{stem}.dist-info/RECORD"] = "\n".join([*record, f"{stem}.dist-info/RECORD,,", ""])
        wheel = self.wheels / f"{stem}-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return str(wheel)


def _digest(content: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).rstrip(b"=").decode()


def wheel_of(site: Site, kind: Kind) -> str:
    texts = {"__init__.py": TOUCH, "loss.py": kind.loss, "params.py": kind.params or ""}
    modules = {f"{kind.package}/{file}": kind.filled(text, site.sentinels) for file, text in texts.items()}
    entry_points = f"[{LOSSES}]\nNAME = {kind.value}\n[{PARAMS}]\nNAME = {kind.params_value}\n"
    headers = "\n".join(filter(None, [f"Summary: {kind.summary}", kind.metadata]))
    return site.write_wheel(kind.distribution, modules, kind.filled(entry_points), headers)


def selector(site: Site) -> str:
    return site.write_wheel("selector", {"selector.py": SELECTOR}, f"[{COMMANDS}]\nselect = selector:main\n")


def break_it(site: Site, kind: Kind) -> None:
    info = site.path / f"{kind.package}-1.0.dist-info"
    if kind.entry_points:
        write("entry_points.txt", kind.entry_points)(kind, site.path / kind.package, info)
    if kind.damage:
        kind.damage(kind, site.path / kind.package, info)


@pytest.fixture(scope="module")
def healthy_rows(tmp_path_factory):
    """The listing of an environment without broken packages."""
    return Site(tmp_path_factory.mktemp("healthy")).rows()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """An environment with every kind."""
    site = Site(tmp_path_factory.mktemp("broken"))
    wheels = [selector(site), *(wheel_of(site, kind) for kind in KINDS)]
    site.install(wheels)
    for kind in KINDS:
        break_it(site, kind)
    return site


@pytest.fixture(scope="module")
def rows(site):
    return site.rows()


def own(rows, kind):
    return [row for row in rows if row["name"] == (kind.row or kind.name)]


@pytest.fixture(scope="module")
def selections(site):
    return site.select({kind.name: ["select", kind.row or kind.name] for kind in KINDS})


class TestListing:
    @each_kind
    def test_each_kind_is_one_row_with_its_status_and_reason(self, rows, kind):
        [row] = own(rows, kind)
        assert row["status"] == kind.status
        if kind.status in ("ok", "untyped"):
            assert kind.status == "untyped" or not row["reason"]
        else:
            assert re.search(kind.filled(kind.message), row["reason"])

    def test_the_rows_of_other_packages_are_unaffected(self, rows, healthy_rows):
        assert len(healthy_rows) >= 4
        assert [row for row in rows if row in healthy_rows] == healthy_rows
        assert len(rows) == len(healthy_rows) + len(KINDS)

    @pytest.mark.parametrize(
        "arguments", [["losses", "list"], ["losses", "list", "--long"], ["plugins", "list"], ["--help"]]
    )
    def test_the_output_contains_no_control_characters(self, site, arguments):
        done = site.skyrl(*arguments, COLUMNS="100")
        assert (done.returncode, done.stderr) == (0, "")
        assert all(line.isprintable() for line in done.stdout.split("\n"))

    def test_no_name_pushes_the_other_columns_off_the_terminal(self, site):
        header = site.skyrl("losses", "list").stdout.partition("\n")[0]
        assert header.index("PACKAGE") <= 66
        assert header.index("SUMMARY") <= 230

    def test_a_summary_is_short_and_clean(self, rows):
        summaries = {row["name"]: row["summary"] for row in rows}
        assert summaries["huge_summary"] == "s" * 199 + "…"
        assert summaries["hostile_summary"] == "redevilsecond linethird31m"
        assert summaries["hostile_docstring"] == "red"  # its first line

    def test_a_version_is_short(self, rows):
        assert [len(row["version"]) for row in rows if row["name"] == "huge_version"] == [64]

    def test_no_suggested_command_contains_shell_syntax(self, rows):
        [row] = [row for row in rows if row["name"] == "shell_name"]
        assert "pip" not in row["reason"]


class TestSelecting:
    @each_kind
    def test_each_kind_works_or_exits_with_its_code_and_one_message(self, selections, kind):
        code, output, error, _ = selections[kind.name]
        assert code == kind.code, error
        assert "Traceback" not in error
        assert all(line.isprintable() for line in error.split("\n"))
        if code == 0:
            assert json.loads(output) == {"name": kind.name}
        elif code not in (130, 41):
            assert error.startswith("error: ")
            assert re.search(kind.filled(kind.message), error)
            assert kind.name in error or kind.row in error  # where
            assert len(error) < 4000

    @pytest.mark.parametrize("kind", [*INSTALL_KINDS, *IMPORT_KINDS], ids=lambda kind: kind.name)
    def test_a_failed_import_reports_what_where_why_and_a_fix(self, selections, kind):
        code, _, error, _ = selections[kind.name]
        if code == 5 and kind.status == "ok":
            what, *places, trace, fix = error.splitlines()
            assert f"policy loss '{kind.name}' ({kind.distribution} 1.0)" in what
            assert kind.filled(kind.value) in what
            assert all(place.startswith("  at ") for place in places)
            assert trace.endswith(f"-c 'import {kind.filled(kind.value).partition(':')[0]}'")
            assert fix.startswith("repair it: it was installed from file://")

    @each_kind
    def test_no_other_package_is_imported(self, selections, kind):
        imported = selections[kind.name][3]
        assert imported in ([], [kind.package])
        if kind.code == 0 and kind.name != "no_init":
            assert imported, "the file that proves an import was not written"


COMMANDS_THAT_SELECT_ANOTHER = {
    "list": ["losses", "list"],
    "list --long": ["losses", "list", "--long"],
    "plugins": ["plugins", "list"],
    "help": ["--help"],
    "show": ["losses", "show", "dual_clip"],
    "schema": ["losses", "schema", "dual_clip"],
    "check": ["losses", "check", "dual_clip"],
    "unknown": ["losses", "show", "dual_clop"],
    "train": ["train", "--loss", "dual_clip", "--dry-run"],
}


@pytest.fixture(scope="module")
def others(site):
    return site.select(COMMANDS_THAT_SELECT_ANOTHER)


class TestUnselected:
    @pytest.mark.parametrize("command", COMMANDS_THAT_SELECT_ANOTHER)
    def test_is_never_imported(self, others, command):
        code, _, error, imported = others[command]
        assert code == (2 if command == "unknown" else 0), error
        assert imported == []

    @pytest.mark.parametrize("arguments", [["losses", "list"], ["train", "--loss", "dual_clip", "--dry-run"]])
    def test_is_never_imported_in_a_separate_process(self, site, arguments):
        done = site.skyrl(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert list(site.sentinels.iterdir()) == []

    def test_training_lists_no_kind_among_its_plugins(self, others):
        assert "kind_" not in others["train"][1]


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory):
    site = Site(tmp_path_factory.mktemp("poisoned"))
    site.install(wheel_of(site, kind) for kind in POISON_KINDS)
    for kind in POISON_KINDS:
        break_it(site, kind)
    return site


class TestPoison:
    """Metadata that Python cannot read breaks `import torch`; the listing names its package."""

    def test_each_is_a_broken_row_and_the_rows_of_other_packages_are_unaffected(self, poisoned, healthy_rows):
        rows = poisoned.rows()
        for kind in POISON_KINDS:
            [row] = own(rows, kind)
            assert row["status"] == "broken"
            assert kind.message in row["reason"]
        assert [row for row in rows if row in healthy_rows] == healthy_rows
        assert poisoned.skyrl("--help").returncode == 0

    @pytest.mark.parametrize(
        "arguments",
        [
            ["losses", "show", "dual_clip"],
            ["losses", "check", "dual_clip"],
            ["train", "--loss", "dual_clip", "--dry-run"],
            ["losses", "check", "no_equals"],
        ],
    )
    def test_the_failed_import_is_one_message_that_names_the_broken_packages(self, poisoned, arguments):
        done = poisoned.skyrl(*arguments)
        assert done.returncode == 5
        assert "Traceback" not in done.stderr
        assert done.stderr.startswith("error: ")
        assert all(f"kind_{kind.name}-1.0.dist-info" in done.stderr for kind in POISON_KINDS)
        assert list(poisoned.sentinels.iterdir()) == []


def simple(site, distribution, name, version="1.0", group=LOSSES):
    """Write the wheel of a healthy loss with this name; its package has the name of the distribution."""
    kind = Kind(name, "ok", 0)
    package = re.sub("[-.]", "_", distribution)
    texts = {"__init__.py": TOUCH, "loss.py": LOSS, "params.py": SCHEMA}
    fill = {"PACKAGE": package, "NAME": name, "SENTINEL": repr(str(site.sentinels / package))}
    modules = {f"{package}/{file}": replaced(text, fill) for file, text in texts.items()}
    entry_points = replaced(f"[{group}]\nNAME = PACKAGE.loss:Loss\n[{PARAMS}]\nNAME = PACKAGE.params:Params\n", fill)
    return site.write_wheel(distribution, modules, entry_points, f"Summary: {kind.summary}", version)


def replaced(text, names):
    for old, new in names.items():
        text = text.replace(old, new)
    return text


@pytest.fixture(scope="module")
def collided(tmp_path_factory):
    site = Site(tmp_path_factory.mktemp("collided"))
    wheels = [simple(site, "loss-a", "taken"), simple(site, "loss-b", "taken", "2.0")]
    wheels += [simple(site, "squatter", "dual_clip"), simple(site, "impostor", "losses", group=COMMANDS)]
    wheels += [simple(site, "misspelled", "lost", group="skyrl.policy_loss")]
    site.install([selector(site), *wheels])
    return site


class TestCollisions:
    def losses(self, site, *arguments):
        return json.loads(site.skyrl("skyrl-core:losses", "list", "--json", *arguments).stdout)["losses"]

    def test_all_claims_are_rows_that_name_each_other(self, collided):
        found = {(row["name"], row["distribution"]): row for row in self.losses(collided)}
        a, b = found["taken", "loss-a"], found["taken", "loss-b"]
        assert (a["status"], b["status"]) == ("conflict", "conflict")
        assert "loss-b 2.0 claims it too; use 'loss-a:taken'" in a["reason"]
        assert "loss-a 1.0 claims it too; use 'loss-b:taken'" in b["reason"]
        assert {found["dual_clip", owner]["status"] for owner in ("skyrl-core", "squatter")} == {"conflict"}

    def test_the_bare_name_is_rejected_and_a_qualified_one_imports_only_that_loss(self, collided):
        found = collided.select(
            {
                "bare": ["select", "taken"],
                "a": ["select", "loss-a:taken"],
                "b": ["select", "Loss_B:taken"],
                "core": ["select", "skyrl-core:dual_clip"],
            }
        )
        assert [found[key][0] for key in ("bare", "a", "b", "core")] == [3, 0, 0, 0]
        assert [found[key][3] for key in ("bare", "a", "b", "core")] == [[], ["loss_a"], ["loss_b"], []]
        assert "'loss-a:taken' or 'loss-b:taken'" in found["bare"][2]

    def test_a_package_that_claims_a_command_cannot_replace_it_or_block_it(self, collided):
        done = collided.skyrl("losses", "list")
        assert done.returncode == 3
        assert "'impostor:losses' or 'skyrl-core:losses'" in done.stderr
        assert collided.skyrl("skyrl-core:losses", "list").returncode == 0
        assert collided.skyrl("plugins", "list").returncode == 0
        assert list(collided.sentinels.iterdir()) == []

    def test_an_unknown_group_is_listed_with_the_nearest_one(self, collided):
        [row] = [row for row in collided.rows(command="plugins") if row["name"] == "lost"]
        assert (row["group"], row["status"]) == ("skyrl.policy_loss", "broken")
        assert "did you mean 'skyrl.policy_losses'?" in row["reason"]

    def test_the_first_copy_on_the_path_shadows_another_one(self, collided, tmp_path):
        older = simple(collided, "loss-a", "taken", "0.5")
        collided.pip("install", "--quiet", "--no-deps", "--no-index", "--no-compile", "--target", str(tmp_path), older)
        (collided.path / "shadowed.pth").write_text(f"{tmp_path}\n")
        rows = [row for row in self.losses(collided) if row["distribution"] == "loss-a"]
        assert [(row["version"], row["status"]) for row in rows] == [("1.0", "conflict")]


FROM_SOURCE = ("install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation")


def write_source(folder, name):
    """Write the source of a package with a loss of this name."""
    package = folder / "src" / f"{name}_loss"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(TOUCH.replace("SENTINEL", repr(str(folder.parent / "x"))))
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        f'[project]\nname = "{name}-loss"\nversion = "1.0"\n'
        f'[project.entry-points."{LOSSES}"]\n{name} = "{name}_loss.loss:Loss"\n'
    )


def test_an_install_from_a_git_commit_is_listed_with_its_url_and_commit(tmp_path):
    site, repository = Site(tmp_path), tmp_path / "repository"
    write_source(repository, "committed")

    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
        command = ["git", *identity, "-C", str(repository), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "first")
    commit = git("rev-parse", "HEAD")
    git("commit", "--quiet", "--allow-empty", "--message", "second")
    site.pip(*FROM_SOURCE, f"git+{repository.as_uri()}@{commit}")
    [row] = [row for row in site.rows() if row["name"] == "committed"]
    assert row["origin"] == {"url": repository.as_uri(), "editable": False, "vcs": "git", "commit": commit}


def test_a_stale_editable_install_is_reported_with_its_origin(tmp_path):
    site, source = Site(tmp_path), tmp_path / "source"
    write_source(source, "moved")
    site.pip(*FROM_SOURCE, "-e", str(source))
    [row] = [row for row in site.rows() if row["name"] == "moved"]
    assert row["status"] == "untyped"
    assert row["origin"] == {"url": source.as_uri(), "editable": True, "vcs": "", "commit": ""}
    source.rename(tmp_path / "elsewhere")
    [row] = [row for row in site.rows() if row["name"] == "moved"]
    assert row["status"] == "broken"
    assert f"it was installed from {source.as_uri()}: reinstall it from its current location" in row["reason"]
    done = site.skyrl("losses", "check", "moved")
    assert (done.returncode, "stale editable install" in done.stderr) == (5, True)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    site = Site(tmp_path_factory.mktemp("policy"))
    site.install([simple(site, "Good.Loss", "good"), simple(site, "Bad_Loss", "bad")])
    return site


class TestPolicy:
    @pytest.mark.parametrize("command", ["losses", "plugins"])
    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (["--deny", "BAD.loss"], "Bad_Loss is in plugins.deny"),
            (["--allow", "good-LOSS"], "Bad_Loss is not in plugins.allow"),
            (["--allow", "good-loss", "--allow", "bad-loss", "--deny", "bad__loss"], "Bad_Loss is in plugins.deny"),
        ],
    )
    def test_a_listing_shows_the_effect_of_a_policy(self, mixed, command, arguments, reason):
        rows = {row["name"]: row for row in mixed.rows(*arguments, command=command)}
        assert (rows["good"]["status"], rows["bad"]["status"]) == ("ok", "denied")
        assert rows["bad"]["reason"] == reason
        assert list(mixed.sentinels.iterdir()) == []

    @pytest.mark.parametrize("command", ["losses", "plugins"])
    def test_an_allowed_name_that_is_not_installed_is_an_error_with_the_nearest_one(self, mixed, command):
        done = mixed.skyrl(command, "list", "--allow", "god-loss")
        assert done.returncode == 2
        assert "'god-loss', which is not installed; did you mean 'good-loss'?" in done.stderr

    @pytest.mark.parametrize(
        "override", ["plugins.deny=[bad-loss]", "plugins.allow=[skyrl-core,skyrl-train,GOOD_LOSS]"]
    )
    def test_training_rejects_a_denied_loss_without_importing_it(self, mixed, override):
        done = mixed.skyrl("train", "--loss", "bad", "--dry-run", override)
        assert done.returncode == 3, done.stderr
        assert "plugins." in done.stderr
        assert "Bad_Loss" in done.stderr
        assert "Traceback" not in done.stderr
        assert list(mixed.sentinels.iterdir()) == []

    def test_training_rejects_an_allowed_name_that_is_not_installed(self, mixed):
        done = mixed.skyrl("train", "--loss", "good", "--dry-run", "plugins.allow=[skyrl-core,skyrl-train,god-loss]")
        assert done.returncode == 2, done.stderr
        assert "did you mean 'good-loss'?" in done.stderr

    def test_training_accepts_an_allowed_loss(self, mixed):
        allowed = "plugins.allow=[skyrl-core,skyrl-train,good_loss]"
        done = mixed.skyrl("train", "--loss", "good", "--dry-run", allowed)
        assert done.returncode == 0, done.stderr
        assert [file.name for file in mixed.sentinels.iterdir()] in ([], ["Good_Loss"])
        for file in mixed.sentinels.iterdir():
            file.unlink()


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser can read everything")
def test_metadata_without_read_permission_does_not_affect_other_packages(tmp_path, healthy_rows):
    site = Site(tmp_path)
    site.install([simple(site, "secret-info", "secret_info"), simple(site, "secret-package", "secret_package")])
    locked = [site.path / "secret_info-1.0.dist-info", site.path / "secret_package"]
    for folder in locked:
        folder.chmod(0)
    try:
        rows = site.rows()
        assert [row for row in rows if row in healthy_rows] == healthy_rows
        assert not [row for row in rows if row["name"] == "secret_info"]
        assert site.skyrl("losses", "check", "secret_package").returncode == 5
    finally:
        for folder in locked:
            folder.chmod(0o755)
