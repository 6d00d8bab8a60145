"""Builds the documentation site: `nox -s site`, or `python docs/site/build_site.py FOLDER`.

The pages are the repository's Markdown files, unchanged apart from their links, and the generated reference.
docs/README.md is the home page and the only list of pages: its sections are the navigation.
"""

import argparse
import importlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from pages import (
    HOME,
    PICTURES,
    ROOT,
    Section,
    linked_source,
    repository_pages,
    rewrite_links,
    sections,
    site_path,
    source_page,
)
from reference import FACES, reference_pages

from skyrl_core import policy_losses

HERE = Path(__file__).parent
OPTIONS = re.compile(r"<!-- options: .*? -->[\s\S]*<!-- end of options -->")
GENERATED_HEADING = "Reference"
ORPHAN = "---\norphan: true\n---\n\n"


def main() -> int:
    """Build the site and return the exit code of Sphinx; a warning is an error."""
    parser = argparse.ArgumentParser(description="Build the documentation site.")
    parser.add_argument("folder", type=Path, help="folder of the site, which is replaced")
    folder: Path = parser.parse_args().folder.resolve()
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "searchindex.js").exists():
        parser.error(f"{folder} is not empty and is no earlier site: name another folder")
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory() as source:
        write_sources(Path(source))
        command = [sys.executable, "-m", "sphinx", "--builder", "html", "--fail-on-warning", "--keep-going", "--quiet"]
        command += ["-d", str(Path(source, ".doctrees")), source, str(folder)]
        code = subprocess.run(command, check=False).returncode
    if code == 0:
        sys.stdout.write(f"open {folder / 'index.html'}\n")
    return code


def write_sources(folder: Path) -> None:
    """Write the pages, the pictures and the settings of Sphinx into a folder."""
    wanted: set[PurePosixPath] = set()
    reference = {f"reference/{name}.md": text for name, text in reference_pages().items()}
    losses = losses_pages()
    for page in repository_pages():
        text, sources = rewrite_links(losses.get(page) or (ROOT / page).read_text(encoding="utf-8"), page)
        _write(folder, site_path(page), _adapted(page, text, reference))
        wanted |= sources
    for path in sorted(wanted):
        _write(folder, linked_source(path), ORPHAN + source_page(path))
    for name, text in reference.items():
        _write(folder, PurePosixPath(name), text)
    pictures = [path for suffix in PICTURES for path in ROOT.glob(f"docs/**/*{suffix}")]
    for picture in pictures:
        target = folder / site_path(PurePosixPath(picture.relative_to(ROOT).as_posix()))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, target)
    for path, text in losses.items():
        if path.suffix in PICTURES:
            _write(folder, site_path(path), text)
    (folder / "_static").mkdir()
    shutil.copy(HERE / "style.css", folder / "_static")
    shutil.copy(HERE / "conf.py", folder)


def losses_pages() -> dict[PurePosixPath, str]:
    """docs/losses.md and its pictures with every installed loss, also those of other distributions."""
    sys.path.insert(0, str(ROOT / "docs"))
    script = importlib.import_module("generate_losses")
    script.DISTRIBUTIONS = {claim.distribution for claim in policy_losses() if claim.status == "ok"}
    return {PurePosixPath(path.relative_to(ROOT).as_posix()): text for path, text in script.generated().items()}


def _adapted(page: PurePosixPath, text: str, reference: Mapping[str, str]) -> str:
    """A page as the site shows it."""
    home = (ROOT / HOME).read_text(encoding="utf-8")
    if page == HOME:
        return with_navigation(text, sections(home), reference)
    if page == PurePosixPath("docs/configuration.md"):
        return OPTIONS.sub("[Configuration options](reference/options.md) lists every option.", text)
    if page == PurePosixPath("docs/api.md"):
        return with_api_links(text)
    listed = {listed for section in sections(home) for listed in section.titles}
    # Pages of docs/ must be in the navigation: Sphinx reports those that are not.
    return text if page in listed or page.parts[0] == "docs" else ORPHAN + text


def with_navigation(home: str, navigation: Iterable[Section], reference: Mapping[str, str]) -> str:
    """The home page with a hidden table of contents for each section, which becomes the sidebar."""
    parts = re.split(r"^(?=## )", home, flags=re.MULTILINE)
    for index, section in enumerate(navigation, start=1):
        pages = [f"{title} <{site_path(page)}>" for page, title in section.titles.items()]
        if section.heading == GENERATED_HEADING:
            titles = {name: text.partition("\n")[0].removeprefix("# ") for name, text in reference.items()}
            links = "".join(f"- [{title}]({name})\n" for name, title in titles.items())
            parts[index] = f"{parts[index].rstrip()}\n{links}\n"
            pages += reference
        toctree = ["```{toctree}", ":hidden:", f":caption: {section.heading}", "", *pages, "```"]
        parts[index] += "\n".join([*toctree, "", ""])
    return "".join(parts)


def with_api_links(text: str) -> str:
    """docs/api.md with each name linked to its documentation in the generated reference."""
    parts = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    for index, part in enumerate(parts):
        face = part.removeprefix("## ").partition("\n")[0].strip("`")
        if face in FACES:
            parts[index] = re.sub(r"^\| `(?!__)(\w+)` ", rf"| {{py:obj}}`\1 <{face}.\1>` ", part, flags=re.MULTILINE)
    return "".join(parts)


def _write(folder: Path, path: PurePosixPath, text: str) -> None:
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
