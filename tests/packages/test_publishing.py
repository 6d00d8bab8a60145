"""The commands of docs/publishing_a_loss.md, run as written, outside the checkout: `nox -s publishing`.

The project's packages come from wheels in an index on this machine; all others are linked from this process.
"""

import json
import re
from pathlib import Path

import pytest

pytestmark = [pytest.mark.publishing, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs/publishing_a_loss.md").read_text()
BLOCK = re.compile(r"^```(bash|bash run|console run)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


def commands_of(document):
    """The scripts of the document, one for each block; of a console only its commands."""
    for kind, text in BLOCK.findall(document):
        is_console = kind == "console run"
        yield "\n".join(re.findall(r"^\$ (.*)$", text, flags=re.MULTILINE)) if is_console else text


@pytest.fixture(scope="module")
def author(tmp_path_factory, new_environment, new_author, build_wheel, wheels, index):
    """The shell of a person with skyrl-train from an index."""
    index.add("skyrl-core", wheels["skyrl-core"])
    index.add("skyrl-train", build_wheel(ROOT / "trainer"))
    folder = tmp_path_factory.mktemp("author")
    environment = new_environment(folder / "venv", with_pip=True)
    environment.link_third_party()
    author = new_author(folder, environment, index)
    author.run("pip install skyrl-train")
    return author


def test_the_document_runs_as_written(author):
    for script in commands_of(DOCUMENT):
        if "twine" not in script:
            author.run(script)
            continue
        # What an upload does: the index has the wheel, and users have nothing of the author.
        [wheel] = author.folder.glob("skyrl-loss-softclip/dist/*.whl")
        author.index.add("skyrl-loss-softclip", wheel)
        author.run("pip uninstall --yes skyrl-loss-softclip")
    [record] = author.folder.glob("runs/*/run.json")
    assert json.loads(record.read_text())["loss"]["params"] == {"clip": 0.1}
