"""output.log has the lines of a run, also those from before its folder existed, and stays small."""

from skyrl_train.tracking import output_log
from skyrl_train.tracking.output_log import OutputLog


def test_lines_from_before_the_run_folder_come_first_and_only_the_owner_reads_them(tmp_path):
    log = OutputLog()
    log.write("early")
    log.open(tmp_path, rank=0)
    log.write("late \ud800")
    assert (tmp_path / "output.log").read_text() == "early\nlate \\ud800\n"
    assert (tmp_path / "output.log").stat().st_mode & 0o077 == 0
    log.close()
    log.write("between")
    log.open(tmp_path, rank=3)
    assert (tmp_path / "output.rank3.log").read_text() == "between\n"


def test_a_run_that_prints_nothing_has_no_log(tmp_path):
    OutputLog().open(tmp_path, rank=0)
    assert list(tmp_path.iterdir()) == []


def test_the_log_takes_at_most_two_files(tmp_path, monkeypatch):
    monkeypatch.setattr(output_log, "MAX_BYTES", 1000)
    log = OutputLog()
    log.open(tmp_path, rank=0)
    for number in range(1000):
        log.write(f"line {number}")
    assert {file.name for file in tmp_path.iterdir()} <= {"output.log", "output.log.1"}
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 2100


def test_a_full_disk_ends_no_run(small_disk):
    folder, log = small_disk(1), OutputLog()
    log.open(folder, rank=0)
    for _ in range(300):
        log.write("x" * 10_000)
