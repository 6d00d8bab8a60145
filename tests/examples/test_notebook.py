"""The notebook: every cell runs, and the edited loss is the one that trains."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "examples" / "notebook.ipynb"


@pytest.mark.train
def test_the_notebook_trains_a_loss_and_its_edited_version(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    small = "STEPS = 1\nimport functools\ntrain = functools.partial(train, **{'evaluation.prompts': 8})"
    [settings] = [cell for cell in notebook.cells if "STEPS = 30" in cell.source]
    settings.source = settings.source.replace("STEPS = 30", small)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    html = [output.data["text/html"] for output in shown if "data" in output and "text/html" in output.data]
    assert "loss &#x27;my_loss&#x27; passes 13 rules" in html[0]
    bars = [page for page in html if "<progress" in page]
    assert len(bars) == 2
    assert all('value="1" max="1"' in page and "finished after step 1" in page for page in bars)
    assert "script:my_loss@2" in bars[1]
    [table] = [output.text for output in shown if output.get("name") == "stdout"]
    first, _, second, _ = table.splitlines()
    assert first.split()[0] == "script:my_loss@1"
    assert second.split()[0] == "script:my_loss@2"
    assert first.split()[1] != second.split()[1]
    assert "<iframe srcdoc=" in html[-1]
    assert not [output for output in shown if output.get("name") == "stderr" and "Warning" in output.text]
