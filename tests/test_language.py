"""Plain English: the phrases that CONTRIBUTING.md bans, in documents, messages, help and docstrings' first lines.

Checked: the prose of Markdown documents and scaffold templates, the comments of configs/, every string with a space in
Python code (messages, help, descriptions), and the first line of every docstring. Not checked: fenced blocks,
`code spans`, link targets, regular expressions, and parts of a document that a script writes from checked strings.
"""

import ast
import re
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("core", "trainer", "plugins/*")
DOCUMENTS = ["*.md", "docs/**/*.md", "examples/**/*.md", "benchmarks/**/*.md", *(f"{name}/*.md" for name in PACKAGES)]
DOCUMENTS += ["core/src/**/*.template", "configs/*.yaml"]
CODE = [*(f"{name}/src/**/*.py" for name in PACKAGES), "examples/**/*.py", "benchmarks/**/*.py", "docs/*.py"]
CODE += ["noxfile.py"]

FENCE = re.compile(r"^ *(?P<marks>```+)")
GENERATED = re.compile(r"^<!-- (?:\w+: written by .*|end of \w+) -->$")
NEW_PARAGRAPH = re.compile(r"^\s*(?:$|[-*|>#]|\d+\. )")
MARKUP = re.compile(r"`[^`]*`|(?<=\])\([^)\s]*\)|<!--.*?-->")

AFTER_A_STOP = r"(?:^|(?<=[.!?] ))"
BEFORE_A_STOP = r"(?=[.;:!?)]|$)"
QUANTITIES = "all any because both each either few half instead least many more most none one out rid some two three"


class Banned(NamedTuple):
    """A phrase, how it is found in a paragraph without line breaks, and what to write instead."""

    phrase: str
    pattern: str
    instead: str
    in_docstrings: bool = True


BANNED = [
    Banned("go on", r"\b(?i:go|goes|going|went|gone) on\b(?! (?:a|an|the|top)\b)", "continue, resume"),
    Banned("whole", r"(?<!\bas a )\b(?i:whole)\b(?!-)(?! numbers?\b)", "complete, entire, intact"),
    Banned(
        "alone",
        r"(?<![-\w])(?<!\bleft )(?<!\bleave )(?<!\blet )(?<!\brun )(?<!\bruns )(?<!\bran )(?i:alone)\b",
        "only",
    ),
    Banned(
        "is there",
        r"\b(?i:is|are|was|were|be|been) there\b(?! (?:a|an|any|no|some|more)\b)",
        "exists, is available, is installed",
    ),
    Banned("said", r"\b(?i:said)\b", "reported, logged, printed"),
    Banned("told", r"\b(?i:told)\b(?! apart)", "notified, given, instructed"),
    Banned("heard", r"\b(?i:heard)\b", "received"),
    Banned("spoken", r"\b(?i:spoken)\b", "described, reported"),
    Banned("Who ... (no question)", AFTER_A_STOP + r"Who(?:m|ever)?\b(?![^.!?]*\?)", "name the subject"),
    Banned("What ... (no question)", AFTER_A_STOP + r"What\b(?![^.!?]*\?)", "name the subject", in_docstrings=False),
    Banned("could be had", r"\b(?i:be|been|is|are|was|were) had\b", "could be computed, is available"),
    Banned("... of which.", r"\b(?i:of (?:which|whom))" + BEFORE_A_STOP, "restructure the sentence"),
    Banned(
        "... of them.",
        rf"\b(?!(?i:{QUANTITIES.replace(' ', '|')})\b)\w+ (?i:of (?:them|it))" + BEFORE_A_STOP,
        "restructure the sentence",
    ),
    Banned(
        "stands",
        r"(?<![-\w])(?i:stands?|stood)\b(?!-)(?! (?:for|in for|by|out|alone)\b)",
        "is, appears",
    ),
    Banned("for ever", r"\b(?i:for ever)\b", "forever, indefinitely; never stops"),
    Banned("without a word", r"\b(?i:without a word)\b", "without an error message"),
    Banned("in silence", r"\b(?i:in silence)\b", "silently, without a warning"),
    Banned("beside", r"\b(?i:beside)\b", "next to, alongside, besides"),
    Banned("in the place of", r"\b(?i:in the place of)\b", "instead of"),
    Banned("of its own", r"\b(?i:of (?:its|their|his|her|my|our|your) own)\b", "its own, a separate"),
    Banned("the loss's own", r"(?:\w's|s'|\b(?i:the)) own\b", "drop own"),
    Banned("no longer needed to be", r"\b(?i:no longer needed to be)\b", "no longer required to be"),
]


class Paragraph(NamedTuple):
    """Text without line breaks, and where in it each line of the file begins."""

    text: str
    starts: list[tuple[int, int]]  # offset in the text, line of the file

    @classmethod
    def join(cls, lines: list[tuple[int, str]]) -> "Paragraph":
        """The numbered lines as one text. Markup is blanked out: its words are names, not prose."""
        text, starts = "", []
        for number, line in lines:
            starts.append((len(text), number))
            text += line.strip() + " "
        return cls(MARKUP.sub(lambda match: "~" * len(match[0]), text.rstrip()), starts)

    def line_at(self, offset: int) -> int:
        """The line of the file that has this place of the text."""
        return self.starts[bisect_right(self.starts, (offset, 10**9)) - 1][1]


def prose_lines(text: str) -> Iterator[tuple[int, str]]:
    """The numbered lines of a Markdown document; lines of fenced and generated parts are empty."""
    closing, generated = "", False
    for number, line in enumerate(text.splitlines(), start=1):
        fence, mark = FENCE.match(line), GENERATED.match(line)
        hidden = bool(closing or fence or generated or mark)
        if mark:
            generated = "written by" in line
        elif closing:
            closing = "" if line.strip() == closing else closing
        elif fence:
            closing = fence["marks"]
        yield number, "" if hidden else line


def paragraphs(lines: Iterator[tuple[int, str]]) -> Iterator[Paragraph]:
    """Lines that belong together. A heading, list item or table row begins a new paragraph."""
    held: list[tuple[int, str]] = []
    for number, line in lines:
        if NEW_PARAGRAPH.match(line) and held:
            yield Paragraph.join(held)
            held = []
        if line.strip():
            held.append((number, re.sub(r"^\s*(?:[-*|>#]+|\d+\.)\s+", "", line)))
    if held:
        yield Paragraph.join(held)


def comment_lines(text: str) -> Iterator[tuple[int, str]]:
    """The numbered comments of a YAML file."""
    for number, line in enumerate(text.splitlines(), start=1):
        yield number, line.partition("# ")[2] if "#" in line else ""


def document(path: Path) -> Iterator[Paragraph]:
    """The prose of a document."""
    text = path.read_text(encoding="utf-8")
    return paragraphs(comment_lines(text) if path.suffix == ".yaml" else prose_lines(text))


def docstrings(tree: ast.Module) -> Iterator[ast.Constant]:
    """Docstrings of modules, classes, functions and attributes: strings that are statements."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value


def messages(tree: ast.Module) -> Iterator[ast.Constant | ast.JoinedStr]:
    """Strings and f-strings of the code that are neither docstrings nor regular expressions."""
    skipped = {id(node) for node in docstrings(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if isinstance(node.func.value, ast.Name) and node.func.value.id == "re":
                skipped |= {id(child) for child in ast.walk(node)}
        elif isinstance(node, ast.JoinedStr):
            skipped |= {id(child) for child in node.values}
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
        if is_text and id(node) not in skipped:
            yield node


def words(node: ast.Constant | ast.JoinedStr) -> str:
    """The text of a string; a replaced field of an f-string is `~`."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "~" for part in node.values)


def banned_in(paragraph: Paragraph, *, docstring: bool = False) -> Iterator[tuple[int, Banned, str]]:
    """Line, phrase and words of each banned phrase."""
    for banned in BANNED:
        if banned.in_docstrings or not docstring:
            for match in re.finditer(banned.pattern, paragraph.text):
                yield paragraph.line_at(match.start()), banned, match[0]


def found_in_code(source: str) -> Iterator[tuple[int, Banned, str]]:
    """Line, phrase and words of each banned phrase in a Python file."""
    tree, lines = ast.parse(source), source.splitlines()
    for node in docstrings(tree):
        first = node.value.strip().splitlines()[0] if node.value.strip() else ""
        yield from banned_in(Paragraph.join([(node.lineno, first)]), docstring=True)
    for node in messages(tree):
        text = words(node)
        if " " not in text.strip():
            continue
        for paragraph in paragraphs((node.lineno, line) for line in text.splitlines()):
            for _, banned, match in banned_in(paragraph):
                span = range(node.lineno, (node.end_lineno or node.lineno) + 1)
                yield next((n for n in span if match in lines[n - 1]), node.lineno), banned, match


def found_in(path: Path) -> list[str]:
    """Every banned phrase of a file, as `file:line: 'words': write ...`."""
    if path.suffix == ".py":
        found = found_in_code(path.read_text(encoding="utf-8"))
    else:
        found = (hit for paragraph in document(path) for hit in banned_in(paragraph))
    name = path.relative_to(ROOT).as_posix()
    return [f"{name}:{line}: {match!r}: {banned.instead}" for line, banned, match in sorted(found)]


def checked_files() -> list[Path]:
    """Every document and Python file that the rules hold for."""
    return sorted(
        {
            path
            for pattern in DOCUMENTS + CODE
            for path in ROOT.glob(pattern)
            if path.is_file() and "LICENSE" not in path.name
        }
    )


def test_no_text_uses_a_banned_phrase():
    files = checked_files()
    assert {".md", ".yaml", ".py", ".template"} == {path.suffix for path in files}
    found = [place for path in files for place in found_in(path)]
    assert not found, "\n".join(["CONTRIBUTING.md, Plain English:", *found])


def test_the_style_sheet_has_every_banned_phrase():
    sheet = (ROOT / "CONTRIBUTING.md").read_text()
    assert [banned.phrase for banned in BANNED if f"| `{banned.phrase}` | {banned.instead}" not in sheet] == []


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("The run goes on from there.", "go on"),
        ("It needs a whole copy.", "whole"),
        ("core alone has it", "alone"),
        ("It works where Triton is there.", "is there"),
        ("*Saved* is said when it is true.", "said"),
        ("The loss is told its step.", "told"),
        ("One rank that heard the signal is enough.", "heard"),
        ("It is spoken of below.", "spoken"),
        ("It ends. Who sends a second signal does without it.", "Who ... (no question)"),
        ("What differs is named.", "What ... (no question)"),
        ("The reward could not be had.", "could be had"),
        ("A list, the last of which.", "... of which."),
        ("It loads the parameters of it; then it ends.", "... of them."),
        ("the name stands in the block", "stands"),
        ("It waits for ever.", "for ever"),
        ("It ended without a word.", "without a word"),
        ("It is dropped in silence.", "in silence"),
        ("A file beside it names the newest.", "beside"),
        ("tokens in the place of sequences", "in the place of"),
        ("It has a page of its own.", "of its own"),
        ("The option's own bounds are checked.", "the loss's own"),
        ("It is no longer needed to be set.", "no longer needed to be"),
    ],
)
def test_a_banned_phrase_is_found(text, phrase):
    assert [banned.phrase for _, banned, _ in banned_in(Paragraph.join([(1, text)]))] == [phrase]


def test_every_banned_phrase_has_an_example_above():
    [mark] = [mark for mark in test_a_banned_phrase_is_found.pytestmark if mark.name == "parametrize"]
    assert {phrase for _, phrase in mark.args[1]} == {banned.phrase for banned in BANNED}


@pytest.mark.parametrize(
    "text",
    [
        "A standalone file, stand-alone tools, `go on`, `a whole file` and whole_groups.",
        "A whole number; the logits as a whole; one stand-in stands in for the engine, N stands for ranks.",
        "Leave it to run alone, or is there a reason? What does it do? Who reads it?",
        "None of them. Most of it. Because of it. It understands its own rules; besides, two can be told apart.",
        "It must go on the list, and [a link](docs/what_is_there_alone.md).",
    ],
)
def test_a_legitimate_use_passes(text):
    assert list(banned_in(Paragraph.join([(1, text)]))) == []


def test_a_phrase_that_is_wrapped_is_found_in_its_line():
    text = "# Title\n\nA run can go\non. It is\nfast.\n\n```\nit goes on\n```\n- In the place\n  of sequences.\n"
    found = [(line, banned.phrase) for part in paragraphs(prose_lines(text)) for line, banned, _ in banned_in(part)]
    assert found == [(3, "go on"), (10, "in the place of")]


def test_generated_parts_of_a_document_are_not_checked():
    text = "<!-- table: written by record.py -->\nThe run goes on.\n<!-- end of table -->\nIt goes on.\n"
    assert [part.text for part in paragraphs(prose_lines(text))] == ["It goes on."]


def test_messages_and_first_lines_of_docstrings_are_checked_and_other_strings_are_not():
    source = '''"""The whole file.

It goes on.
"""
import re
PATTERN = re.compile("a whole word")
NAME = "whole"
def f(x):
    """What it is."""
    raise ValueError(
        f"{x} is wrong: "
        "it is there, alone"
    )
'''
    found = [(line, banned.phrase) for line, banned, _ in found_in_code(source)]
    assert found == [(1, "whole"), (12, "alone"), (12, "is there")]
