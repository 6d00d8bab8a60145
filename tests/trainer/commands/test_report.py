"""`skyrl report`."""

import webbrowser

import pytest

from skyrl_train.commands.report import main
from skyrl_train.tracking.atomic_file import RunFolderError
from skyrl_train.tracking.run_folder import RunFolder


@pytest.fixture
def run(tmp_path):
    with RunFolder.create(tmp_path / "a run", title="t") as folder:
        folder.start_run({"title": "my run"})
    return folder.path


def test_path_of_the_report_is_printed(run, capsys):
    assert main([str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    assert "my run" in (run / "report.html").read_text()


def test_report_is_opened_in_the_browser(run, monkeypatch, capsys):
    opened = []
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or True)
    assert main([str(run), "--open"]) == 0
    assert opened == [(run / "report.html").as_uri()]
    assert capsys.readouterr().out.count("\n") == 1


def test_without_a_browser_a_message_is_printed(run, monkeypatch, capsys):
    monkeypatch.setattr(webbrowser, "open", lambda address: False)
    assert main([str(run), "--open"]) == 0
    assert "open the file yourself" in capsys.readouterr().out


def test_folder_without_a_run_is_an_error(tmp_path):
    with pytest.raises(RunFolderError, match="no run in"):
        main([str(tmp_path)])


def test_missing_folder_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2
    assert "RUN" in capsys.readouterr().err
