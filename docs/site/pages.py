"""Which files of the repository are pages of the site, where they go, and how links between them are rewritten."""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[2]
HOME = PurePosixPath("docs/README.md")
PATTERNS = ("*.md", "docs/*.md", "benchmarks/**/*.md", "examples/**/*.md", "*/README.md", "plugins/*/README.md")
PICTURES = (".svg", ".png")
LANGUAGES = {".py": "python", ".sh": "bash", ".yaml": "yaml", ".toml": "toml", ".json": "json"}

_LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")  # the text before it may be on several lines
_FENCE = re.compile(r"^ *(```+|~~~+)")
_NAV_ENTRY = re.compile(r"^- \[(?P<title>[^\]]+)\]\((?P<target>[^)\s#]+)\)", flags=re.MULTILINE)


@dataclass(frozen=True)
class Section:
    """One section of docs/README.md: its heading, and the pages that its list links to with their titles."""

    heading: str
    titles: dict[PurePosixPath, str]


def repository_pages() -> list[PurePosixPath]:
    """Every Markdown file that is a page of the site, relative to the repository."""
    found = {path.relative_to(ROOT) for pattern in PATTERNS for path in ROOT.glob(pattern)}
    return sorted(PurePosixPath(path.as_posix()) for path in found)


def sections(home: str) -> list[Section]:
    """The navigation, read from the text of docs/README.md."""
    parts = re.split(r"^## (.+)\n", home, flags=re.MULTILINE)[1:]
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return [
        Section(heading, {resolve(HOME, target): title for title, target in _NAV_ENTRY.findall(text)})
        for heading, text in pairs
    ]


def resolve(page: PurePosixPath, target: str) -> PurePosixPath:
    """The file or folder that a relative link of a page means, relative to the repository."""
    return PurePosixPath(os.path.normpath(page.parent / target))


def site_path(path: PurePosixPath) -> PurePosixPath:
    """Where a file of the repository is in the site: docs/ at the top, and the README of the repository as overview."""
    if path == HOME:
        return PurePosixPath("index.md")
    if path == PurePosixPath("README.md"):
        return PurePosixPath("overview.md")
    return path.relative_to("docs") if path.is_relative_to("docs") else path


def linked_source(path: PurePosixPath) -> PurePosixPath:
    """The page that shows a file or folder which is no page: a listing with the text of the files."""
    return PurePosixPath("source", f"{path}.md")


def rewrite_links(markdown: str, page: PurePosixPath) -> tuple[str, set[PurePosixPath]]:
    """The page with links as the site needs them, and the files and folders that need a page in source/."""
    pages, sources = set(repository_pages()), set()

    def rewritten(match: re.Match[str]) -> str:
        target, _, anchor = match["target"].partition("#")
        if re.match(r"[a-z]+:", match["target"]) or not target:
            return match[0]
        found = resolve(page, target)
        found = found / "README.md" if found / "README.md" in pages else found
        if found in pages or found.suffix in PICTURES:
            place = site_path(found)
        else:
            sources.add(found)
            place = linked_source(found)
        relative = os.path.relpath(place, site_path(page).parent)
        return f"]({relative}{'#' + anchor if anchor else ''})"

    return "\n".join(_lines(markdown, rewritten)) + "\n", sources


def _lines(markdown: str, rewritten: Callable[[re.Match[str]], str]) -> Iterator[str]:
    """The lines of a page with links outside fences rewritten."""
    fence = ""
    for line in markdown.splitlines():
        marks = _FENCE.match(line)
        if marks and (not fence or line.strip() == fence):
            fence = "" if fence else marks[1]
            yield line
        else:
            yield line if fence else _LINK.sub(rewritten, line)


def source_page(path: PurePosixPath) -> str:
    """A page with the text of a file, or of each file of a folder."""
    target = ROOT / path
    files = [target] if target.is_file() else sorted(file for file in target.rglob("*") if _is_text(file))
    parts = [f"# {path}\n\nFrom the repository.\n"]
    for file in files:
        heading = f"## {file.relative_to(target)}\n\n" if target.is_dir() else ""
        text = file.read_text(encoding="utf-8").rstrip("\n")
        parts.append(f"{heading}``````{LANGUAGES.get(file.suffix, 'text')}\n{text}\n``````\n")
    return "\n".join(parts)


def _is_text(file: Path) -> bool:
    return file.is_file() and "__pycache__" not in file.parts and file.suffix in {*LANGUAGES, ".md", ".txt"}
