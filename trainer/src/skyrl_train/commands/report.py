"""Write report.html for a run that is finished, in progress or killed."""
# PYTHON_ARGCOMPLETE_OK

import webbrowser
from collections.abc import Sequence

from skyrl_core.cli import CommandParser
from skyrl_core.lookup import checked_path
from skyrl_train.tracking.html_report import write_report

EXAMPLES = ("skyrl report runs/gspo-20260101-120000 --open",)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report, print its path, and open it in a browser if requested.

    Raises:
        RunFolderError: the folder holds no run, or the report cannot be written.
    """
    about = "Write report.html for a run, even while it is running."
    parser = CommandParser(prog="skyrl report", description=about, examples=EXAMPLES)
    parser.add_argument("run", type=checked_path, metavar="RUN", help="the run folder")
    parser.add_argument("--open", action="store_true", help="open the report in a browser")
    options = parser.parse_args(argv)
    report = write_report(options.run)
    print(report)
    if options.open and not webbrowser.open(report.resolve().as_uri()):
        print("no browser could be started; open the file yourself")
    return 0
