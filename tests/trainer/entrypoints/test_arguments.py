"""The command line of a run."""

from pathlib import Path

import pytest

from skyrl_core.errors import SkyrlError
from skyrl_train.entrypoints.arguments import parse_arguments


def parse(*argv):
    return parse_arguments(argv, "skyrl train")


def test_options_and_overrides_mix_in_any_order():
    parsed = parse("a=1", "--loss", "x", "b=2", "--config", "f.yaml", "+c=3", "--dry-run", "d=-1", "--config=g.yaml")
    assert parsed.overrides == ("a=1", "b=2", "+c=3", "d=-1")
    assert parsed.config_files == (Path("f.yaml"), Path("g.yaml"))
    assert parsed.loss == "x"
    assert parsed.dry_run


@pytest.mark.parametrize("argument", ["--local_rank=3", "--local-rank=3"])
def test_the_local_rank_option_of_launchers_is_ignored(argument):
    assert parse(argument, "a=1") == parse("a=1")


@pytest.mark.parametrize(
    ("argv", "resume", "overrides"),
    [
        (["--resume"], "", ()),
        (["--resume", "runs/x"], "runs/x", ()),
        (["--resume", "a=1"], "", ("a=1",)),
        (["--resume", "--dry-run"], "", ()),
        (["a=1", "--resume=runs/x", "b=2"], "runs/x", ("a=1", "b=2")),
        ([], None, ()),
    ],
)
def test_resume_works_with_and_without_a_folder(argv, resume, overrides):
    parsed = parse(*argv)
    assert (parsed.resume, parsed.overrides) == (resume, overrides)


def test_resume_takes_skip_damaged_and_accept_loss_change():
    parsed = parse("--resume", "--skip-damaged", "--accept-loss-change")
    assert (parsed.resume, parsed.skip_damaged, parsed.accept_loss_change) == ("", True, True)
    parsed = parse("--resume", "runs/x")
    assert (parsed.skip_damaged, parsed.accept_loss_change) == (False, False)


def test_a_folder_with_an_equals_sign_can_be_resumed(tmp_path):
    folder = tmp_path / "lr=1"
    folder.mkdir()
    assert parse("--resume", str(folder)).resume == str(folder)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--dryrun"], "unknown option --dryrun; did you mean --dry-run?"),
        (["--dry"], "unknown option --dry; did you mean --dry-run?"),
        (["--trainer.steps=3"], "write an override without dashes: trainer.steps=3"),
        (["--zzz"], "`skyrl train --help` shows the options"),
        (["--config"], "--config: expected one argument"),
        (["--json"], "it needs --dry-run"),
        (["--skip-damaged"], "it needs --resume"),
        (["--accept-changes"], "it needs --resume"),
    ],
)
def test_wrong_usage_is_an_error_with_a_hint(argv, message):
    with pytest.raises(SkyrlError) as caught:
        parse(*argv)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2
