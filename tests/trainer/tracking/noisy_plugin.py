"""Prints whatever could control a terminal, in every way. Used by tests as a program and as a reward."""

import ctypes
import os
import subprocess
import sys

CONTROL = (
    *("\x1b]52;c;ZXZpbA==\x07", "\x1b]0;title\x07", "\x1b[2J", "\x1bc", "\x1bP1|x\x1b\\", "\x9b2J", "\u202e", "\u2066"),
    "\b",
)
WAYS = ("print", "stderr", "write", "puts", "child")
printed: list[str] = []


def noise(where: str) -> None:
    """Print from Python, C and a child process, and ten megabytes without a line break."""
    text = "".join(CONTROL)
    print(f"{where} print {text}")
    print(f"{where} stderr {text}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os.write(1, f"{where} write {text}\n".encode() + b"\xff\n")
    libc = ctypes.CDLL(None)
    libc.puts(f"{where} puts {text}".encode())
    libc.fflush(None)
    subprocess.run(["printf", "%s\n", f"{where} child {text}"], check=True)
    os.write(2, b"x" * 3_000_000 + b"\n")


def reward(_: object, row: object) -> float:
    """Print with the first answer only."""
    if not printed:
        printed.append("reward")
        noise("reward")
    return 1.0


def main(ending: str) -> None:
    """Print in a captured block; `kill` ends the process in it."""
    import signal

    from skyrl_train.tracking.output_capture import buffered_output, safe_output

    with buffered_output():
        noise("buffered")
    with safe_output():
        noise("safe")
        if ending == "kill":
            os.write(1, f"last words{''.join(CONTROL)}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])
