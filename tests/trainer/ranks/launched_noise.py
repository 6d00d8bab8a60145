"""Two processes below one display: rank 0 draws, rank 1 prints. Used by tests as a program."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from skyrl_train.ranks.launch_screen import LaunchScreen
from skyrl_train.tracking.console import Console
from skyrl_train.tracking.tracker import RunInfo, RunSummary


def main(rank: str = "") -> None:
    if rank == "0":
        console = Console()
        console.start(RunInfo(run_folder=Path("/runs/mine"), title="mine", loss="mine", total_steps=3, config={}))
        for step in (1, 2, 3):
            time.sleep(0.4)
            print(f"rank 0 in step {step}")
            console.log_step(step, {"reward/mean": step / 10})
        time.sleep(0.4)
        console.finish(RunSummary(run_folder=Path("/runs/mine"), steps=3, seconds=2))
        console.close()
    elif rank == "1":
        for step in (1, 2, 3):
            time.sleep(0.4)
            os.write(2, f"rank 1 in step {step}\n".encode())
    else:
        with tempfile.TemporaryDirectory() as folder, LaunchScreen(Path(folder), 2) as screen:
            ranks = [
                subprocess.Popen([sys.executable, __file__, each], env={**os.environ, **screen.environment})
                for each in "01"
            ]
            codes = [each.wait() for each in ranks]
        print(f"exit codes {codes}")


if __name__ == "__main__":
    main(*sys.argv[1:])
