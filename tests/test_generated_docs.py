"""The generated documents are exactly what the scripts docs/generate_*.py write."""

import re
import runpy
from pathlib import Path
from xml.etree import ElementTree

import pytest

from skyrl_core.registry.loss_registry import policy_losses

pytestmark = pytest.mark.docs

DOCS = Path(__file__).parents[1] / "docs"
REMEDY = "is not what the losses say: run `nox -s generated_docs` (or `python docs/generate_losses.py`) and commit"


@pytest.fixture(scope="module")
def script() -> dict:
    return runpy.run_path(str(DOCS / "generate_losses.py"))


@pytest.fixture(scope="module")
def generated(script) -> dict[Path, str]:
    return script["generated"]()


def test_what_is_committed_is_what_is_generated(generated) -> None:
    for path, text in generated.items():
        name = path.relative_to(DOCS.parent)
        assert path.exists(), f"{name} {REMEDY}"
        assert path.read_text(encoding="utf-8") == text, f"{name} {REMEDY}"


def test_no_picture_is_of_a_loss_that_is_gone(generated) -> None:
    assert set(DOCS.glob("signatures/*")) <= set(generated), f"docs/signatures {REMEDY}"


def test_every_loss_of_this_repository_has_a_section_and_a_place(script, generated) -> None:
    names = {claim.name for claim in policy_losses() if claim.distribution in script["DISTRIBUTIONS"]}
    page = generated[DOCS / "losses.md"]
    assert set(re.findall(r"^### (\w+)$", page, flags=re.MULTILINE)) == names
    assert {name for family in script["FAMILIES"].values() for name in family} == names


def test_every_picture_is_well_formed(generated) -> None:
    pictures = [text for path, text in generated.items() if path.suffix == ".svg"]
    assert len(pictures) > 20
    for picture in pictures:
        assert ElementTree.fromstring(picture).tag.endswith("svg")


@pytest.mark.parametrize(
    ("loss", "facts"),
    [
        (
            "dual_clip",
            ["jumps at 0.8 from 0 to -0.8; jumps at 3 from -3 to 0", "`clip_fraction_dual`", "arXiv 1912.09729"],
        ),
        ("entropy_reg", ["With `entropy_coef: 0`: `old_log_probs`.", "weight 0.01 per nat", "`loss/entropy`"]),
        ("cispo", ['With `anchor: "rollout"`: `rollout_log_probs`.', "bends at 5, at weight 5"]),
        ("gspo", ["here all of them have this ratio", "**Default reduction.** `sequence_mean`"]),
        ("vespo", ["tokens with ratio r has ratio r^4"]),
        ("kpop", ["depend on the probability of the token"]),
        ("kl_cov", ["A = +1, selected: jumps at 1 from 2 to 0."]),
        ("reinforce", ["No parameters.", "Only the policy's log-probs."]),
    ],
)
def test_a_section_says_what_is_true_of_the_loss(generated, loss: str, facts: list[str]) -> None:
    page = generated[DOCS / "losses.md"]
    section = re.search(rf"^### {loss}\n([\s\S]+?)(?=^##|\Z)", page, flags=re.MULTILINE)[1]
    for fact in facts:
        assert fact in section


@pytest.mark.parametrize("loss", ["standard", "icepop", "dppo"])
def test_a_loss_of_single_tokens_is_not_said_to_weigh_sequences(generated, loss: str) -> None:
    section = re.search(rf"^### {loss}\n([\s\S]+?)(?=^##|\Z)", generated[DOCS / "losses.md"], flags=re.MULTILINE)[1]
    assert "all tokens of its sequence" not in section


def test_the_api_page_is_the_generated_one() -> None:
    page = runpy.run_path(str(DOCS / "generate_api.py"))["page"]()
    assert (DOCS / "api.md").read_text(encoding="utf-8") == page, (
        "docs/api.md is out of date: run `nox -s generated_docs`"
    )
