"""All names of a new package derive from one; some names are not available."""

import pytest

from skyrl_core.errors import SkyrlError
from skyrl_core.scaffold.naming import BASE_CLASSES, MAX_LENGTH, TRAINER_OPTIONS, PackageNames, package_names

LOSSES, ESTIMATORS = "skyrl.policy_losses", "skyrl.advantage_estimators"


@pytest.mark.parametrize("given", ["soft_clip", "soft-clip", "SoftClip", "softClip", "SOFT_CLIP", "Soft-Clip"])
def test_every_spelling_gives_the_same_names(given):
    assert package_names(given) == PackageNames(
        loss="soft_clip",
        distribution="skyrl-loss-softclip",
        module="skyrl_loss_softclip",
        loss_class="SoftClipLoss",
        params_class="SoftClipParams",
    )


@pytest.mark.parametrize(
    ("given", "loss", "loss_class"),
    [
        ("x", "x", "XLoss"),
        ("KLCap", "kl_cap", "KlCapLoss"),
        ("PPO2Clip", "ppo2_clip", "Ppo2ClipLoss"),
        ("clip_2", "clip_2", "Clip2Loss"),
        ("a" * MAX_LENGTH, "a" * MAX_LENGTH, f"A{'a' * (MAX_LENGTH - 1)}Loss"),
    ],
)
def test_words_are_found_by_their_capitals(given, loss, loss_class):
    names = package_names(given)
    assert (names.loss, names.loss_class) == (loss, loss_class)


@pytest.mark.parametrize(
    ("given", "free"),
    [
        ("2clip", "'clip' is free"),
        ("soft.clip", "'soft_clip' is free"),
        ("Soft Clip!", "'soft_clip' is free"),
        ("../soft", "'soft' is free"),
        ("soft__clip", "'soft_clip' is free"),
        ("_soft", "'soft' is free"),
        ("soft_", "'soft' is free"),
        ("dual.clip", "'dual_clip_2' is free"),
        ("\u03b1_clip", "'clip' is free"),
        ("a" * (MAX_LENGTH + 1), f"'{'a' * 37}' is free"),
    ],
)
def test_a_malformed_name_is_rejected_with_the_syntax_and_a_similar_name(given, free):
    with pytest.raises(SkyrlError, match="words of letters and digits") as caught:
        package_names(given)
    assert caught.value.exit_code == 2
    assert str(caught.value).endswith(free)


@pytest.mark.parametrize("given", ["", "1", "---", "!"])
def test_no_name_is_suggested_if_no_valid_character_is_left(given):
    with pytest.raises(SkyrlError, match="words of letters and digits") as caught:
        package_names(given)
    assert "free" not in str(caught.value)


@pytest.mark.parametrize(("given", "free"), [("lambda", "lambda_2"), ("None", "none"), ("Yield", "yield_2")])
def test_a_keyword_is_rejected(given, free):
    with pytest.raises(SkyrlError, match=f"is a Python keyword; '{free}' is free"):
        package_names(given)


@pytest.mark.parametrize("given", ["dual_clip", "DualClip", "dual-clip"])
def test_a_built_in_loss_is_rejected_in_every_spelling(given):
    with pytest.raises(SkyrlError, match=r"policy loss 'dual_clip' \(skyrl-core .+\) is installed; 'dual_clip_2' is"):
        package_names(given)


def test_an_installed_loss_is_rejected_whatever_its_status(distributions):
    distributions.add("foo-dist", {LOSSES: {"foo": "no_such_package:Foo", "foo_2": "json:loads"}})
    with pytest.raises(SkyrlError, match=r"policy loss 'foo' \(foo-dist 1\.0\) is installed; 'foo_3' is free"):
        package_names("foo")


def test_the_name_of_an_estimator_is_rejected_because_a_config_has_one_block_for_it(distributions):
    distributions.add("foo-dist", {ESTIMATORS: {"foo": "foo:Foo"}})
    with pytest.raises(SkyrlError, match=r"advantage estimator 'foo' \(foo-dist 1\.0\) is installed"):
        package_names("foo")


def test_the_name_of_an_installed_distribution_is_rejected_even_if_its_loss_has_another_name(distributions):
    distributions.add("skyrl-loss-softclip", {LOSSES: {"softclip_": "a:B"}})
    with pytest.raises(SkyrlError, match="the distribution skyrl-loss-softclip is installed; 'soft_clip_2' is free"):
        package_names("soft_clip")


@pytest.mark.parametrize(("given", "base"), [("policy", "PolicyLoss"), ("loss", "LossParams")])
def test_a_class_never_has_the_name_of_its_base_class(given, base):
    assert base in BASE_CLASSES
    with pytest.raises(SkyrlError, match=f"one of its classes would have the same name as its base class, {base}"):
        package_names(given)


def test_an_option_of_the_trainer_is_rejected_because_parameters_have_a_block_of_that_name():
    for name in TRAINER_OPTIONS:
        with pytest.raises(SkyrlError, match=rf"trainer\.algorithm\.{name} is an option"):
            package_names(name)
