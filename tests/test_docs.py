"""The documents tell the truth: their code and commands run as written, their links and paths exist.

Fences that run, in the order of the document and in one folder that holds copies of configs/ and examples/:

- ```` ```python ````: one namespace for each document; ```` ```python no-run ```` is only compiled.
- ```` ```bash run ````: must end with exit code 0.
- ```` ```console run ````: runs the lines that start with `$ `; the other lines must be in the output, in this order,
  whatever the spacing. A line `...` stands for any lines.
- ```` ```bash long ````: as `bash run`, but takes minutes, so it runs only with SKYRL_LONG_BLOCKS=1 (`nox -s site`).

Every other fence is text. A document that installs a package in editable mode gets an environment for it.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.docs

ROOT = Path(__file__).parents[1]
PACKAGES = ["core", "trainer", "plugins/*"]
SOURCES = ["*.md", "docs/**/*.md", "examples/**/*.md", "benchmarks/**/*.md", *(f"{name}/*.md" for name in PACKAGES)]
DOCUMENTS = sorted(path for pattern in SOURCES for path in ROOT.glob(pattern))
SECONDS = 500
RUNNING = ("bash run", "console run", *(("bash long",) if os.environ.get("SKYRL_LONG_BLOCKS") else ()))

FENCE = re.compile(r"^(?P<indent> *)(?P<marks>```+)(?P<info>.*)$")
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)[^)]*\)|^\[[^\]]+\]:\s+(?P<reference>\S+)", flags=re.MULTILINE)
CODE_SPAN = re.compile(r"`([^`\n]+)`")
REPOSITORY_PATH = re.compile(r"(core|trainer|plugins|configs|examples|docs|tests|benchmarks)/[\w./-]*")

# Everything that a document installs is a folder, and what it requires is installed.
OFFLINE_PIP = {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0"}

every_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())


@dataclass(frozen=True)
class Block:
    """One fenced block: its info string, its text without the fence's indent, and the line of its opening fence."""

    info: str
    text: str
    line: int


def blocks(markdown: str) -> Iterator[Block]:
    """All fenced blocks. A fence that is never closed is an error."""
    lines = enumerate(markdown.splitlines(), start=1)
    for number, line in lines:
        opening = FENCE.match(line)
        if not opening:
            continue
        body = []
        for _, inside in lines:
            if inside.strip() == opening["marks"]:
                break
            body.append(inside.removeprefix(opening["indent"]))
        else:
            raise ValueError(f"the fence in line {number} is never closed")
        yield Block(opening["info"].strip(), "\n".join(body) + "\n", number)


def prose(markdown: str) -> str:
    """The document with its fenced blocks blanked out."""
    lines = markdown.splitlines()
    for block in blocks(markdown):
        for index in range(block.line - 1, block.line + len(block.text.splitlines()) + 1):
            lines[index] = ""
    return "\n".join(lines)


def script(markdown: str, folder: Path) -> str:
    """A Python program that runs the document. Each block stands at its own line, so that a traceback names it."""
    lines = [""] * (len(markdown.splitlines()) + 1)
    for block in blocks(markdown):
        if block.info == "python":
            text = textwrap.dedent(block.text).splitlines()
            lines[block.line : block.line + len(text)] = text
        elif block.info in RUNNING:
            console = block.info == "console run"
            commands = console_commands(block.text) if console else block.text
            name = f"line_{block.line}"
            (folder / f"{name}.sh").write_text(commands)
            output = f"open('{name}.out', 'w')" if console else "None"
            arguments = f"['bash', '-euo', 'pipefail', '{name}.sh'], stdout={output}, check=True"
            lines[block.line - 1] = f"__import__('subprocess').run({arguments})"
    return "\n".join(lines) + "\n"


def console_commands(text: str) -> str:
    return "".join(line[2:] + "\n" for line in text.splitlines() if line.startswith("$ "))


def missing_output(text: str, output: str) -> list[str]:
    """The lines that a console block shows and the output does not have, or not in this order."""
    printed = iter([" ".join(line.split()) for line in output.splitlines()])
    shown = (" ".join(line.split()) for line in text.splitlines() if not line.startswith("$ "))
    return [line for line in shown if line not in ("", "...") and line not in printed]


def run(markdown: str, folder: Path) -> str:
    """Run the document in this folder. Returns what went wrong, empty if nothing did."""
    program = folder / "document.py"
    program.write_text(script(markdown, folder))
    installs = any("pip install -e" in commands.read_text() for commands in folder.glob("line_*.sh"))
    python, settings = (environment(folder), OFFLINE_PIP) if installs else (Path(sys.executable), {})
    search_path = os.pathsep.join([str(python.parent), os.environ["PATH"]])
    done = subprocess.run(
        [python, program.name],
        cwd=folder,
        env={**os.environ, **settings, "PATH": search_path, "COLUMNS": "200"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    if done.returncode:
        return f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    wrong = [
        f"line {block.line}: not in the output: {line}"
        for block in blocks(markdown)
        if block.info == "console run"
        for line in missing_output(block.text, (folder / f"line_{block.line}.out").read_text())
    ]
    return "\n".join(wrong)


def environment(folder: Path) -> Path:
    """The Python of a fresh environment that also has every package of this one, and its command `skyrl`."""
    venv.create(folder / "environment", symlinks=True)
    python = folder / "environment" / "bin" / "python"
    [site] = python.parents[1].glob("lib/python*/site-packages")
    (site / "outer.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    command = python.with_name("skyrl")
    command.write_text(f"#!{python}\nimport sys\nfrom skyrl_core.cli.main import main\nsys.exit(main())\n")
    command.chmod(0o755)
    return python


def anchors(markdown: str) -> set[str]:
    """The anchors of the headings, as code hosts make them."""
    headings = re.findall(r"^#+ +(.+?) *$", prose(markdown), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(markdown: str, path: Path) -> list[str]:
    """Links to files or headings that do not exist. Addresses on the web are not looked at."""
    broken = []
    for match in LINK.finditer(prose(markdown)):
        target = match["target"] or match["reference"]
        name, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = path.parent / name if name else path
        if not file.exists():
            broken.append(f"{target}: no such file")
        elif anchor and anchor not in anchors(markdown if file == path else file.read_text()):
            broken.append(f"{target}: no such heading")
    return broken


def missing_paths(markdown: str, path: Path) -> list[str]:
    """Paths in `code spans` that exist neither in the repository nor next to the document."""
    spans = [span for span in CODE_SPAN.findall(prose(markdown)) if REPOSITORY_PATH.fullmatch(span)]
    return [span for span in spans if not (ROOT / span).exists() and not (path.parent / span).exists()]


@every_document
def test_a_document_runs_as_written(path, tmp_path):
    for name in ("configs", "examples"):
        shutil.copytree(ROOT / name, tmp_path / name)
    assert run(path.read_text(), tmp_path) == ""


@pytest.mark.site
@pytest.mark.parametrize("name", [path.name for path in DOCUMENTS if "```bash long" in path.read_text()])
def test_the_long_blocks_of_a_document_run_as_written(name, tmp_path):
    if "bash long" not in RUNNING:
        pytest.skip("takes minutes; set SKYRL_LONG_BLOCKS=1")
    [path] = [path for path in DOCUMENTS if path.name == name]
    assert run(path.read_text(), tmp_path) == ""


@every_document
def test_all_python_in_a_document_compiles(path):
    for block in blocks(path.read_text()):
        if block.info.split()[:1] == ["python"]:
            assert block.info in ("python", "python no-run"), f"line {block.line}: unknown mark"
            ast.parse(textwrap.dedent(block.text), filename=f"{path.name}, block in line {block.line}")


@every_document
def test_links_and_paths_in_a_document_exist(path):
    markdown = path.read_text()
    assert broken_links(markdown, path) == []
    assert missing_paths(markdown, path) == []


def fenced(info: str, text: str) -> str:
    return f"```{info}\n{text}\n```\n"


def test_blocks_of_a_document_share_names_and_a_folder(tmp_path):
    parts = [
        fenced("bash run", "echo 3 > number"),
        fenced("python", "number = int(open('number').read())"),
        fenced("python no-run", "raise SystemExit('not run')"),
        fenced("bash", "exit 1"),
        fenced("python", "open('double', 'w').write(f'{2 * number}\\n')"),
        fenced("console run", "$ echo one   two; echo three\none two\n...\n$ cat double\n6"),
    ]
    assert run("\n".join(parts), tmp_path) == ""


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ("text\n\n" + fenced("python", "1 / 0"), r"line 4[\s\S]*ZeroDivisionError"),
        (fenced("bash run", "false\ntrue"), "CalledProcessError"),
        (fenced("console run", "$ echo one; echo two\ntwo\none"), "line 1: not in the output: one"),
    ],
)
def test_a_document_that_lies_is_found(document, complaint, tmp_path):
    assert re.search(complaint, run(document, tmp_path))


def test_a_fence_that_is_never_closed_is_an_error():
    with pytest.raises(ValueError, match="line 3 is never closed"):
        list(blocks("text\n\n```python\nx = 1\n"))


def test_a_broken_link_or_path_is_found(tmp_path):
    (tmp_path / "other.md").write_text("# The other\n\n## One heading\n")
    path = tmp_path / "this.md"
    path.write_text(
        "# Top\n\n[a](other.md#one-heading) [b](#top) [c](https://example.org/x) [d](none.md) [e](other.md#two)\n"
        "`core/pyproject.toml` `core/none.py` `core/<name>.py`\n"
    )
    markdown = path.read_text()
    assert broken_links(markdown, path) == ["none.md: no such file", "other.md#two: no such heading"]
    assert missing_paths(markdown, path) == ["core/none.py"]
