"""Secrets of a run reach none of its files, and a run that had some is private and says how to resume."""

import json
import shlex
import sys

import pytest
import yaml

from skyrl_core.errors import InvalidParamsError
from skyrl_core.redaction import names_secret
from skyrl_train.config.load_config import resolve_run
from skyrl_train.config.options import all_options
from skyrl_train.environments.load_environment import load_environment

TOKEN, PASSWORD = "hf_" + "aB3" * 8, "pazzword"
URL = f"http://me:{PASSWORD}@h:1"
SECRETS = {
    "data": {"system_prompt": f"say {TOKEN}"},
    "rollout": {"server": {"urls": [URL]}},
    "tracking": {"wandb": {"notes": f"see {TOKEN}"}},
}
OPTIONS = {
    "data__system_prompt": f"say {TOKEN}",
    "rollout__server__urls": [URL],
    "tracking__wandb__notes": f"see {TOKEN}",
    "evaluation__prompts": 0,
}


@pytest.mark.train
def test_no_file_of_a_run_has_its_secrets_and_resuming_asks_for_them(train, tmp_path, monkeypatch, capfd):
    command = ["skyrl", "train", f"rollout.server.urls=[{URL}]", "--judge-token", "sesame"]
    monkeypatch.setattr(sys, "argv", command)
    folder, trackers = tmp_path / "run", ["console", "tensorboard"]
    train(folder, **OPTIONS, tracking__trackers=trackers, trainer__steps=1)
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert {"config.yaml", "run.json", "report.html", "manifest.json"} <= {file.name for file in files}
    for file in files:
        content = file.read_bytes()
        assert not any(secret.encode() in content for secret in (TOKEN, PASSWORD, "sesame")), file
    printed = capfd.readouterr()
    assert TOKEN not in printed.out + printed.err
    assert folder.stat().st_mode & 0o077 == 0

    record = json.loads((folder / "run.json").read_text())
    assert shlex.split(record["command"])[2:] == [
        "rollout.server.urls=[http://<redacted>@h:1]",
        "--judge-token",
        "<redacted>",
    ]
    with pytest.raises(InvalidParamsError) as refused:
        resolve_run(load_environment, resume=str(folder))
    for key in ("rollout.server.urls", "tracking.wandb.notes"):
        assert f"{key} = " in str(refused.value)
    assert "give it again in a separate file" in str(refused.value)

    again = tmp_path / "secrets.yaml"
    again.write_text(yaml.safe_dump(SECRETS))
    given = ["--config", str(folder / "config.yaml"), "--config", str(again), "--resume", str(folder)]
    assert train(folder, *given, trainer__steps=2, evaluation__prompts=0)[-1]["step"] == 2
    assert TOKEN not in (folder / "config.yaml").read_text()


def test_a_plan_and_an_error_show_no_secrets(capsys):
    from skyrl_train.entrypoints.main_base import main

    secrets = [f"{key.replace('__', '.')}={json.dumps(value)}" for key, value in OPTIONS.items()]
    for form in ([], ["--json"]):
        main(["--dry-run", *secrets, *form])
    with pytest.raises(SystemExit):
        main([*secrets, "trainer.algorithm.api_key=sesame", f"model_options.dtype={TOKEN}", "foo password=sesame"])
    printed = "".join(capsys.readouterr())
    assert printed.count("<redacted>") > 6
    assert not any(secret in printed for secret in (TOKEN, PASSWORD, "sesame"))


@pytest.mark.parametrize("value", ["<redacted>", ["a", {"b": "https://<redacted>@h"}], {"c": [["<redacted>"]]}])
def test_a_redacted_value_is_refused_wherever_it_is(value):
    with pytest.raises(InvalidParamsError, match="this secret was removed when the run was recorded"):
        resolve_run(load_environment, settings={"test": {"trainer": {"deepspeed": {"extra": {"x": value}}}}})
    with pytest.raises(InvalidParamsError) as refused:
        resolve_run(load_environment, settings={"test": {"environment": {"params": {"x": [10**6000]}}}})
    assert "this secret" not in str(refused.value)


def test_no_option_of_the_trainer_has_the_name_of_a_secret():
    assert [option.key for option in all_options() if names_secret(option.key)] == []
