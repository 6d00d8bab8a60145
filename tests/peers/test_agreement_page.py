"""docs/agreement.md names tests that exist, and has every test of an error."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/agreement.md").read_text()
WRITTEN = {
    name
    for path in ROOT.glob("tests/peers/test_*.py")
    for name in re.findall(r"^def (test_\w+)", path.read_text(), flags=re.MULTILINE)
    if path != Path(__file__)
}


def test_every_test_that_the_page_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert named - WRITTEN == set()


def test_every_comparison_is_in_the_page() -> None:
    assert {name for name in WRITTEN if f"`{name}`" not in PAGE} == set()


def test_the_page_names_the_releases_that_are_installed() -> None:
    for name, project in {"trl": "TRL", "verl": "verl", "skyrl": "SkyRL"}.items():
        pins = (ROOT / f"tests/peers/requirements/{name}.txt").read_text()
        version = re.search(rf"^{name}==(\S+)$", pins, flags=re.MULTILINE)[1]
        assert f"## Errors of {project} {version}" in PAGE
