"""Errors that nobody expected cannot control a terminal."""

import subprocess
import sys


def test_an_unexpected_error_and_its_cause_print_safe_tracebacks():
    key = "hf_" + "aB3" * 8
    code = (
        "from skyrl_core.cli import print_safe_tracebacks\n"
        "print_safe_tracebacks()\n"
        f"try:\n    raise KeyError('\\x1b]52;c;x\\x07 {key}')\n"
        "except KeyError as error:\n    raise ValueError('https://me:word@host \\u202e') from error\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.replace("\n", "").isprintable()
    assert done.stderr.splitlines()[-1] == "ValueError: https://<redacted>@host \\u202e"
    assert "KeyError" in done.stderr
    assert key not in done.stderr
