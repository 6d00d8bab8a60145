"""Write report.html for a run that is finished, in progress or killed."""

import argparse
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from skyrl_train.tracking.html_report import write_report


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report, print its path, and open it in a browser if requested.

    Raises:
        RunFolderError: the folder holds no run, or the report cannot be written.
    """
    parser = argparse.ArgumentParser(
        prog="skyrl report", description="Write report.html for a run, even while it is running."
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the run folder")
    parser.add_argument("--open", action="store_true", help="open the report in a browser")
    options = parser.parse_args(argv)
    report = write_report(options.run)
    print(report)
    if options.open and not webbrowser.open(report.resolve().as_uri()):
        print("no browser could be started; open the file yourself")
    return 0
