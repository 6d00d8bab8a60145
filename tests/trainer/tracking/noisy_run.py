"""A run without training during which everything prints. Used by tests as a program; `abort` ends it in C code."""

import ctypes
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

from skyrl_train.tracking.console import Console
from skyrl_train.tracking.screen import show_loading
from skyrl_train.tracking.tracker import RunInfo, RunSummary


def main(ending: str = "") -> None:
    libc, folder = ctypes.CDLL(None), Path("/runs/noisy")
    logging.getLogger().addHandler(logging.StreamHandler(sys.stderr))
    show_loading("libraries")
    time.sleep(0.3)
    print("printed while loading")
    console = Console()
    console.start(RunInfo(run_folder=folder, title="noisy", loss="mine", total_steps=3, config={}))
    for step in (1, 2, 3):
        time.sleep(0.3)  # the bar is drawn four times a second
        print(f"print {step}")
        os.write(1, f"os.write {step}\n".encode())
        libc.puts(f"puts {step}".encode())
        libc.fflush(None)
        logging.warning("logged %d", step)
        subprocess.run(["sh", "-c", f"echo child {step}; echo error of child {step} >&2"], check=True)
        sys.stderr.write(f"10%\r50%\r\x1b[32mgreen\x1b[0m {step}\x1b[2A\n")
        console.log_step(step, {"reward/mean": step / 10})
    if ending == "abort":
        time.sleep(0.3)
        os.write(2, b"last words")
        os.abort()
    console.finish(RunSummary(run_folder=folder, steps=3, seconds=2))
    console.close()
    print("printed after the run")


if __name__ == "__main__":
    main(*sys.argv[1:])
