"""Losses and environments as objects: their names, parameters and errors."""

import pytest

from skyrl_core import LossParams, PolicyLoss, TokenLosses, load_policy_loss
from skyrl_core.discovery import ALLOW_ALL
from skyrl_core.errors import InvalidParamsError, PluginConflictError, SkyrlError
from skyrl_core.losses.dual_clip import DualClipLoss
from skyrl_core.registry import LOSSES
from skyrl_train import Environment, EnvironmentParams, environment_of_function, load_environment
from skyrl_train.config.plugin_check import ENVIRONMENT_GROUP
from skyrl_train.entrypoints.given_plugins import (
    loader_of_environment,
    name_of_loss,
    settings_of_environment,
    with_function,
)


@pytest.fixture(autouse=True)
def _nothing_is_registered(monkeypatch):
    monkeypatch.setattr(LOSSES, "_registered", {})
    monkeypatch.setattr(ENVIRONMENT_GROUP, "_registered", {})


class RLCapLoss(PolicyLoss):
    api_version = semantics_version = 1

    class Params(LossParams):
        cap: float = 1.0

    def token_losses(self, batch):
        return TokenLosses(values=-batch.advantages * batch.log_probs.clamp(max=self.params.cap))


class KeepsItsParameters(PolicyLoss):
    def __init__(self, config):
        self.config = config


class WordCount(Environment):
    class Params(EnvironmentParams):
        words: int = 1

    def reward(self, completion, row):
        return float(len(completion.text.split()) == self.params.words)


def my_loss(log_probs, old_log_probs, advantages, masks, **kwargs):
    return -(log_probs * advantages * masks).sum() / masks.sum()


def test_a_name_stays_and_a_class_or_function_is_registered_under_its_own():
    assert name_of_loss("gspo@1") == ("gspo@1", {})
    assert name_of_loss(RLCapLoss) == name_of_loss(RLCapLoss) == ("rl_cap_loss", {})
    assert name_of_loss(my_loss) == ("my_loss", {})
    assert name_of_loss(lambda *_, **__: 0) == ("loss", {})
    assert isinstance(load_policy_loss("rl_cap_loss"), RLCapLoss)


def test_an_installed_class_and_an_instance_of_a_registered_function_keep_their_names():
    assert name_of_loss(DualClipLoss) == ("skyrl-core:dual_clip", {})
    name, _ = name_of_loss(my_loss)
    assert name_of_loss(load_policy_loss(name, {"scale": 2}))[0] == "my_loss"


def test_an_instance_brings_its_parameters():
    loss = RLCapLoss(RLCapLoss.Params(cap=0.5))
    assert name_of_loss(loss) == ("rl_cap_loss", {"trainer": {"algorithm": {"rl_cap_loss": {"cap": 0.5}}}})
    installed = load_policy_loss("dual_clip", {"clip_high": 0.3})
    name, settings = name_of_loss(installed)
    assert (name, settings["trainer"]["algorithm"]["dual_clip"]["clip_high"]) == ("skyrl-core:dual_clip", 0.3)


def test_an_instance_that_hides_its_parameters_is_refused():
    with pytest.raises(InvalidParamsError, match=r"pass the class, and its parameters as trainer.algorithm.keeps_its"):
        name_of_loss(KeepsItsParameters(LossParams()))


@pytest.mark.parametrize("thing", [42, int, {"loss": 1}])
def test_anything_else_is_refused(thing):
    with pytest.raises(SkyrlError, match="pass a name, a subclass of PolicyLoss, an instance of one, or a function"):
        name_of_loss(thing)


def test_two_functions_of_one_name_from_two_places_are_a_conflict():
    name_of_loss(my_loss)

    def other(*_, **__):
        return 0

    other.__name__ = "my_loss"
    with pytest.raises(PluginConflictError, match="registered twice"):
        name_of_loss(other)


def test_an_environment_is_a_name_a_section_a_class_or_an_instance():
    assert settings_of_environment(None) == {}
    assert settings_of_environment("gsm8k") == {"name": "gsm8k"}
    assert settings_of_environment({"name": "arithmetic", "workers": 2}) == {"name": "arithmetic", "workers": 2}
    assert settings_of_environment(WordCount) == {"name": "word_count"}
    instance = WordCount(WordCount.Params(words=3))
    assert settings_of_environment(instance) == {"name": "word_count", "params": {"words": 3}}
    assert isinstance(load_environment("word_count"), WordCount)
    assert settings_of_environment(load_environment("arithmetic"))["name"].endswith("arithmetic")
    with pytest.raises(SkyrlError, match="a subclass of Environment"):
        settings_of_environment(42)


@pytest.mark.parametrize("make", [lambda function: function, environment_of_function])
def test_a_reward_function_is_loaded_itself_however_it_is_given(make):
    def judge(completion, row):
        return 0.25

    environment = with_function(make(judge))
    assert settings_of_environment(environment) == {"name": "judge"}
    load = loader_of_environment(environment)
    assert load("judge", {}, ALLOW_ALL) is environment
    assert type(load("arithmetic", {}, ALLOW_ALL)) is type(load_environment("arithmetic"))
