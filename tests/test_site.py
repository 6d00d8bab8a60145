"""The documentation site: complete navigation, no broken link, no request to anywhere else, a search that works.

The tests marked `site` look at a built site: that of SKYRL_SITE, or one that they build.
"""

import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import pytest

from skyrl_core.errors import ConformanceError, InvalidParamsError
from skyrl_core.registry.loss_registry import policy_losses
from skyrl_train.config.options import all_options
from skyrl_train.tracking.metric_glossary import GLOSSARY

ROOT = Path(__file__).parents[1]
SITE_CODE = ROOT / "docs" / "site"
LOADED = {
    "script": "src",
    "link": "href",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "object": "data",
}
"""Attributes whose address a browser loads with the page."""


@pytest.fixture
def pages(monkeypatch):
    monkeypatch.syspath_prepend(str(SITE_CODE))
    yield importlib.import_module("pages")
    for name in ("pages", "reference"):
        sys.modules.pop(name, None)


@pytest.fixture
def reference(pages):
    return importlib.import_module("reference")


@pytest.mark.docs
def test_every_page_of_docs_is_in_the_navigation(pages) -> None:
    listed = {page for section in pages.sections((ROOT / pages.HOME).read_text()) for page in section.titles}
    missing = {page for page in pages.repository_pages() if page.parts[0] == "docs"} - listed - {pages.HOME}
    assert not missing, "add these pages to the list in docs/README.md"


@pytest.mark.docs
def test_no_page_is_listed_twice(pages) -> None:
    listed = [page for section in pages.sections((ROOT / pages.HOME).read_text()) for page in section.titles]
    assert sorted(set(listed)) == sorted(listed)


@pytest.mark.docs
def test_links_lead_to_the_place_of_a_page_in_the_site(pages) -> None:
    text = "\n".join(
        [
            "[a](losses.md#gspo) [b](../README.md) [c](../CONTRIBUTING.md#set-up) [two",
            "lines](../benchmarks/results/memory.md) ![d](signatures/gspo.svg) [e](https://example.org) [f](#here)",
            "[g](../examples/algorithms/custom_policy_loss) [h](../noxfile.py)",
            "```",
            "[not](a_link.md)",
            "```",
        ]
    )
    rewritten, sources = pages.rewrite_links(text, PurePosixPath("docs/api.md"))
    assert rewritten.splitlines() == [
        "[a](losses.md#gspo) [b](overview.md) [c](CONTRIBUTING.md#set-up) [two",
        "lines](benchmarks/results/memory.md) ![d](signatures/gspo.svg) [e](https://example.org) [f](#here)",
        "[g](examples/algorithms/custom_policy_loss/README.md) [h](source/noxfile.py.md)",
        "```",
        "[not](a_link.md)",
        "```",
    ]
    assert sources == {PurePosixPath("noxfile.py")}
    assert "import nox" in pages.source_page(PurePosixPath("noxfile.py"))
    assert "## gsm8k_dataset.py" in pages.source_page(PurePosixPath("examples/gsm8k"))


@pytest.mark.docs
def test_the_reference_has_every_option_metric_and_error(reference) -> None:
    options, metrics = reference.options_page(), reference.metrics_page()
    assert [option.key for option in all_options() if f"{{confval}} {option.key}\n" not in options] == []
    assert [entry.pattern for entry in GLOSSARY if f"| `{entry.pattern}` |" not in metrics] == []
    codes = {name: code for name, code, _, _ in reference.error_classes()}
    assert codes["ConformanceError"] == ConformanceError.exit_code
    assert codes["InvalidParamsError"] == InvalidParamsError.exit_code
    assert codes["ObserverError"] == 5  # inherited from PluginLoadError
    assert {"SkyrlError", "DataError", "DamagedCheckpointError"} <= codes.keys()
    assert "{confval} trainer.algorithm.clipped_pg.clip_high\n" in reference.loss_parameters_page()
    assert "## Exit code 6" in reference.errors_page()


@pytest.mark.docs
def test_the_reference_documents_what_a_face_exports(reference) -> None:
    page = reference.api_page("skyrl_train")
    assert ".. autofunction:: skyrl_train.read_history" in page
    assert ".. autoclass:: skyrl_train.RolloutEngine" in page
    assert ".. data:: skyrl_train.Message\n\n   Type of a chat message" in page


# The built site


class Page(HTMLParser):
    """The ids of a page, its links, and what a browser loads with it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        values = dict(attrs)
        self.ids |= {values[key] for key in ("id", "name") if values.get(key)}
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        if values.get(LOADED.get(tag, "")):
            self.loaded.append(values[LOADED[tag]])


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    if built := os.environ.get("SKYRL_SITE"):
        return Path(built)
    pytest.importorskip("sphinx")
    folder = tmp_path_factory.mktemp("site") / "site"
    command = [sys.executable, str(SITE_CODE / "build_site.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return folder


@pytest.fixture(scope="session")
def html(site) -> dict[Path, Page]:
    return {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}


def broken(html: dict[Path, Page]) -> Iterator[str]:
    for path, page in html.items():
        for link in page.links + page.loaded:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            if not target.is_file() or (anchor and target in html and anchor not in html[target].ids):
                yield f"{path.name}: {link}"


@pytest.mark.site
def test_every_link_and_anchor_of_the_site_exists(html) -> None:
    assert len(html) > 40
    assert sum(len(page.links) for page in html.values()) > 2000
    assert list(broken(html)) == []


@pytest.mark.site
def test_no_file_of_the_site_loads_anything_from_elsewhere(site, html) -> None:
    outside = [(path.name, each) for path, page in html.items() for each in page.loaded if "//" in each]
    assert outside == []
    styles = "\n".join(path.read_text() for path in site.rglob("*.css"))
    assert re.findall(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//[^)\s]*", styles) == []
    calls = r"(?:fetch|import|importScripts|open|Request)\(\s*[`'\"]https?://[^`'\"]*"
    assert [found for path in site.rglob("*.js") for found in re.findall(calls, path.read_text())] == []


@pytest.mark.site
def test_a_folder_that_is_no_site_is_not_replaced(tmp_path) -> None:
    (tmp_path / "thesis.tex").write_text("important")
    command = [sys.executable, str(SITE_CODE / "build_site.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "is no earlier site" in done.stderr
    assert (tmp_path / "thesis.tex").exists()


@pytest.mark.site
@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("reference/skyrl_core.html", 'id="skyrl_core.LossBatch"'),
        ("reference/skyrl_core.maths.html", 'id="skyrl_core.maths.clipped_surrogate"'),
        ("reference/skyrl_train.html", 'id="skyrl_train.Environment"'),
        ("reference/options.html", "trainer.optimizer.learning_rate"),
        ("reference/commands.html", 'id="skyrl-losses-new"'),
        ("api.html", 'href="reference/skyrl_core.html#skyrl_core.PolicyLoss"'),
        ("index.html", 'href="reference/errors.html"'),
    ],
)
def test_a_page_has_what_a_reader_looks_for(site, page, text) -> None:
    assert text in (site / page).read_text()


@pytest.mark.site
def test_the_site_shows_every_installed_loss_with_its_picture(site) -> None:
    text = (site / "losses.html").read_text()
    names = {claim.name for claim in policy_losses() if claim.status == "ok"}
    assert len(names) > 20
    assert {name for name in names if f"_images/{name}.svg" not in text} == set()


@pytest.mark.site
def test_search_finds_a_parameter_from_a_file_without_any_request(site, tmp_path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser_path:
        pytest.skip("no Chromium is installed")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
    arguments += ["--no-first-run", "--disable-component-update", "--disable-sync"]
    with playwright.sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(
            tmp_path / "profile", executable_path=browser_path, headless=True, args=arguments
        )
        page = context.new_page()
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.goto((site / "index.html").as_uri())
        page.fill("input.sidebar-search", "clip_high")
        page.press("input.sidebar-search", "Enter")
        page.locator("ul.search li a", has_text=re.compile(r"^Losses$")).wait_for()
        found = page.locator("ul.search li a").all_inner_texts()
        context.close()
    assert found[0].startswith("trainer.algorithm.") and found[0].endswith(".clip_high"), found  # noqa: PT018
    assert [url for url in requests if not url.startswith("file://")] == []
