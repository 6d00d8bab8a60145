"""A sample of the generated bad configurations: no traceback, nothing slow, nothing raw in the output."""

import pytest
from tests.trainer.config.bad_configurations import bad_configuration, run_here, run_process

SAMPLE = 120


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def test_generated_bad_configurations_end_in_messages(folder):
    outcomes = {seed: run_here(bad_configuration(seed), folder) for seed in range(SAMPLE)}
    assert not {seed: each.fault for seed, each in outcomes.items() if each.fault}
    assert sum(each.code != 0 for each in outcomes.values()) > 0.9 * SAMPLE


def test_the_real_command_reports_a_bad_configuration(folder):
    outcome = run_process(bad_configuration(3), folder)
    assert not outcome.fault
    assert outcome.code in (2, 4)
