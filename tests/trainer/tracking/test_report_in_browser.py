"""The report in Chromium: layout, filter, hover values, and screenshots compared with those in docs/screenshots.

Fonts differ between machines. After a change that is meant, `SKYRL_WRITE_SCREENSHOTS=1 nox -s browser` writes the
pictures; look at them before you commit them.
"""

import io
import os
import shutil
from pathlib import Path

import pytest

from skyrl_train.tracking.html_report import write_report

pytestmark = pytest.mark.browser
sync_api = pytest.importorskip("playwright.sync_api", reason="nox -s browser installs playwright")
image = pytest.importorskip("PIL.Image")
chops = pytest.importorskip("PIL.ImageChops")

RUN = Path(__file__).parent / "quickstart_run"
PICTURES = Path(__file__).parents[3] / "docs" / "screenshots"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --font-render-hinting=none"
)
VISIBLE = 24
"""Difference in brightness, of 255, that a reader sees."""
TILE = 40
"""Pixels; a small difference would vanish in the average over a page."""
TOLERANCE = 0.02
"""Share of the pixels of one tile that may differ visibly: antialiasing, not a moved or missing line."""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "quickstart"
    shutil.copytree(RUN, folder)
    return write_report(folder)


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture
def page(browser, report, request):
    width, scheme = getattr(request, "param", (1280, "light"))
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.requests, page.problems = [], []
    page.on("request", lambda sent: page.requests.append(sent.url))
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda message: page.problems.append(message.text))
    page.goto(report.as_uri())
    page.evaluate("document.querySelector('header .small').textContent = 'runs/quickstart'")
    yield page
    assert page.problems == []
    assert page.requests == [report.as_uri()]
    page.close()


def difference(first, second):
    """The share of pixels that differ visibly in the worst tile; 1 for pictures of different sizes."""
    if first.size != second.size:
        return 1.0
    changed = chops.difference(first, second).convert("L").point(lambda level: 255 if level >= VISIBLE else 0)
    return changed.reduce(TILE).getextrema()[1] / 255


def shot(page):
    return image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB").quantize(48, dither=0).convert("RGB")


@pytest.mark.parametrize("page", [(w, s) for w in (1280, 390) for s in ("light", "dark")], indirect=True)
def test_the_page_looks_as_in_the_picture_and_fits_its_window(page, request):
    width, scheme = request.node.callspec.params["page"]
    assert page.evaluate("document.documentElement.scrollWidth") == width
    cut = "[...document.querySelectorAll('section, svg text, td')].filter(e => { const box = e.getBoundingClientRect();"
    assert page.evaluate(f"{cut} return box.left < 0 || box.right > innerWidth + 0.5; }}).map(e => e.outerHTML)") == []
    file = PICTURES / f"report_{width}_{scheme}.png"
    if os.environ.get("SKYRL_WRITE_SCREENSHOTS"):
        file.parent.mkdir(exist_ok=True)
        shot(page).quantize(48, dither=0).save(file, optimize=True)
    expected = image.open(file).convert("RGB")
    assert difference(shot(page), expected) <= TOLERANCE


@pytest.mark.parametrize("part", ["svg polyline", ".legend", "td", ".change", ".samples summary > span"])
def test_a_missing_part_is_above_the_tolerance(page, part):
    before = shot(page)
    assert difference(before, shot(page)) == 0
    page.evaluate(f"document.querySelector({part!r}).style.visibility = 'hidden'")
    assert difference(before, shot(page)) > TOLERANCE


def test_values_under_the_pointer_replace_the_last_ones(page):
    chart = page.locator(".charts > section").first
    last = chart.locator(".legend b").all_text_contents()
    box = chart.locator("svg").bounding_box()
    page.mouse.move(box["x"] + 46 / 360 * box["width"], box["y"] + 40)
    assert chart.locator(".at").text_content() == "step 0"
    assert chart.locator(".legend b").all_text_contents() == ["46.0%", "89.0%"]
    assert chart.locator("svg circle.c0[r='3.5']").count() == 1
    page.mouse.move(0, 0)
    assert chart.locator(".legend b").all_text_contents() == last


def test_arrow_keys_move_through_the_steps(page):
    chart = page.locator(".charts > section").first
    chart.locator("svg").focus()
    page.keyboard.press("ArrowLeft")
    assert chart.locator(".at").text_content() == "step 50"
    page.keyboard.press("ArrowLeft")
    assert chart.locator(".at").text_content() == "step 40"


def test_samples_are_filtered_by_verdict_step_and_text(page):
    def visible():
        return page.locator(".samples details:visible")

    assert visible().count() == 20
    page.get_by_role("button", name="Show all 30").click()
    assert visible().count() == 30
    page.get_by_role("radio", name="error").check()
    assert visible().count() == 1
    page.get_by_role("radio", name="wrong").check()
    assert set(visible().locator("summary > :first-child").all_text_contents()) == {"wrong"}
    page.get_by_role("radio", name="all").check()
    page.get_by_role("combobox").select_option("49")
    assert {text[-7:] for text in visible().locator("summary > :last-child").all_text_contents()} == {"step 49"}
    page.get_by_role("searchbox").fill("nothing has this text")
    assert visible().count() == 0
    assert page.locator(".shown").text_content() == "0"


def test_the_printed_page_is_light_and_has_no_controls(browser, report):
    page = browser.new_page(color_scheme="dark")
    page.goto(report.as_uri())
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator(".filter").is_visible()
    assert page.pdf(format="A4").count(b"/Type /Page\n") >= 2
    page.close()
