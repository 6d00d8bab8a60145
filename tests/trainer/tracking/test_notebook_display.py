"""The live display in a real kernel."""

import nbformat
from nbclient import NotebookClient

CELL = """
import time
from pathlib import Path
from skyrl_train.tracking.console import Console
from skyrl_train.tracking.screen import show_loading
from skyrl_train.tracking.tracker import RunInfo, RunSummary
show_loading("libraries")
console = Console()
console.start(RunInfo(run_folder=Path("/runs/mine"), title="mine", loss="mine", total_steps=40, config={}))
for step in range(1, 41):
    console.log_step(step, {"reward/mean": step / 100})
console.finish(RunSummary(run_folder=Path("/runs/mine"), steps=40, seconds=75))
console.close()
"""


def test_a_cell_has_one_display_with_the_last_state_and_no_line_for_each_step():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL), nbformat.v4.new_code_cell(CELL)])
    NotebookClient(notebook, timeout=60).execute()
    for cell in notebook.cells:  # twice in one process
        [display] = [output for output in cell.outputs if output.output_type == "display_data"]
        assert display.data["text/plain"].splitlines()[0].startswith("step 40/40 ━")
        assert display.data["text/plain"].splitlines()[0].rstrip().endswith(" 1:15")
        assert "reward 0.4000" in display.data["text/html"]
        assert "<pre" in display.data["text/html"]
        text = "".join(output.text for output in cell.outputs if output.output_type == "stream")
        assert "loss mine · 40 steps on 1 process" in text
        assert "Finished after step 40, 1:15" in text
        assert "step 3/40" not in text
        assert "\x1b" not in text
