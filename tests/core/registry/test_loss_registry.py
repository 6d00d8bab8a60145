"""Losses and estimators by name: registered, validated, loaded, described."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pydantic import Field

from skyrl_core.contract.advantage_estimator import AdvantageBatch, AdvantageEstimator
from skyrl_core.contract.policy_loss import PolicyLoss, TokenLosses, is_scalar_form
from skyrl_core.discovery.plugin_group import PluginPolicy
from skyrl_core.errors import InvalidParamsError, PluginConflictError, PluginLoadError, UnknownPluginError
from skyrl_core.parameters.loss_params import LossParams, OpenLossParams
from skyrl_core.registry import estimator_registry
from skyrl_core.registry import loss_registry as registry
from skyrl_core.registry.estimator_registry import load_advantage_estimator, register_advantage_estimator
from skyrl_core.registry.loss_registry import (
    describe_loss,
    load_policy_loss,
    policy_losses,
    register_policy_loss,
    validate_loss_params,
)

LOSSES, PARAMS, ESTIMATORS = "skyrl.policy_losses", "skyrl.policy_loss_params", "skyrl.advantage_estimators"

SCHEMA = """
from pydantic import Field
from skyrl_core import LossParams

class FooParams(LossParams):
    coef: float = Field(default=0.5, ge=0, lt=1)
    steps: int = 3

class OtherParams(LossParams):
    pass
"""

LOSS = '''
"""The loss foo."""
from foo_loss.params import FooParams
from skyrl_core import PolicyLoss, TokenLosses

class FooLoss(PolicyLoss):
    name = "foo"
    Params = FooParams
    api_version = 1
    semantics_version = 7

    def token_losses(self, batch):
        return TokenLosses(values=-batch.log_probs * self.params.coef)
'''


@pytest.fixture(autouse=True)
def _nothing_is_registered(monkeypatch):
    monkeypatch.setattr(registry.LOSSES, "_registered", {})
    monkeypatch.setattr(estimator_registry.ESTIMATORS, "_registered", {})


def install_foo(distributions, loss=LOSS, schema=SCHEMA, *, params="foo_loss.params:FooParams"):
    groups = {LOSSES: {"foo": "foo_loss.loss:FooLoss"}} | ({PARAMS: {"foo": params}} if params else {})
    modules = {"foo_loss/__init__.py": "", "foo_loss/loss.py": loss, "foo_loss/params.py": schema}
    distributions.add("foo-dist", groups, modules=modules)


class Token(PolicyLoss):
    """Minus the log-prob."""

    name = "token"
    api_version = 1
    semantics_version = 2

    class Params(LossParams):
        coef: float = Field(default=1.0, gt=0)

    def token_losses(self, batch):
        return TokenLosses(values=-self.params.coef * batch.log_probs)


class Scalar(PolicyLoss):
    def __init__(self, config):
        self.factor = config.get("factor", 1.5)

    def compute_loss(self, log_probs, old_log_probs, advantages, masks, **kwargs):
        return -(self.factor * log_probs * masks).sum() / masks.sum()


def batch():
    """log_probs, old_log_probs, advantages, masks: one row of two tokens, log-probs -1 and -2."""
    return torch.tensor([[-1.0, -2.0]]), torch.zeros(1, 2), torch.ones(1, 2), torch.ones(1, 2)


class TestInstalled:
    def test_a_loss_is_loaded_with_its_defaults_and_with_given_parameters(self, distributions):
        install_foo(distributions)
        assert load_policy_loss("foo").params.coef == 0.5
        loss = load_policy_loss("foo-dist:foo", {"coef": 0.25})
        assert loss.compute_loss(*batch()).item() == pytest.approx(0.25 * 1.5)  # mean of 1 and 2, times coef
        assert load_policy_loss("foo", loss.params).params == loss.params

    @pytest.mark.parametrize("name", ["standard", "dual_clip", "cispo", "gspo"])
    def test_the_built_in_losses_are_entry_points_like_any_other(self, name):
        loss = load_policy_loss(name)
        assert loss.name == name
        assert name in {claim.name for claim in policy_losses() if claim.distribution == "skyrl-core"}
        with pytest.raises(PluginConflictError):
            load_policy_loss(name, policy=PluginPolicy(deny=["skyrl-core"]))

    def test_parameters_are_checked_before_the_loss_is_imported(self, distributions):
        install_foo(distributions, loss="raise SystemExit('imported')")
        assert validate_loss_params("foo", {"steps": 4}).model_dump() == {"coef": 0.5, "steps": 4}
        with pytest.raises(InvalidParamsError):
            load_policy_loss("foo", {"coef": 2})
        with pytest.raises(PluginLoadError, match="imported"):
            load_policy_loss("foo")

    def test_all_problems_are_reported_at_once(self, distributions):
        install_foo(distributions)
        with pytest.raises(InvalidParamsError) as caught:
            validate_loss_params("foo", {"coef": 1.5, "steps": "many", "stepz": 1, "zzz": None})
        problems = {problem.path: (problem.value, problem.nearest) for problem in caught.value.problems}
        assert problems == {"coef": (1.5, None), "steps": ("many", None), "stepz": (1, "steps"), "zzz": (None, None)}
        message = str(caught.value)
        assert caught.value.exit_code == 4
        assert "'foo' (foo-dist 1.0)" in message
        assert "coef = 1.5: must be < 1" in message
        assert "stepz = 1: unknown parameter; did you mean 'steps'?" in message

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), None, [], "x"])
    def test_a_non_finite_or_non_number_value_is_rejected(self, distributions, value):
        install_foo(distributions)
        with pytest.raises(InvalidParamsError, match="coef"):
            validate_loss_params("foo", {"coef": value})

    def test_parameters_of_an_untyped_loss_pass_until_it_is_loaded(self, distributions):
        install_foo(distributions, params="")
        assert isinstance(validate_loss_params("foo", {"anything": 1}), OpenLossParams)
        assert "foo_loss" not in sys.modules
        with pytest.raises(InvalidParamsError, match="anything"):
            load_policy_loss("foo", {"anything": 1})

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (("class FooLoss(PolicyLoss)", "class FooLoss"), "not a subclass of PolicyLoss"),
            (('name = "foo"', 'name = "bar"'), "name is 'bar': make it 'foo'"),
            (("    api_version = 1\n", ""), "add `api_version = 1`"),
            (("Params = FooParams", ""), "name the same class in both"),
            (("Params = FooParams", "Params = dict"), "class"),
            (("    def token", "    def __init__(self, params): 1 / 0\n    def token"), "ZeroDivisionError"),
        ],
    )
    def test_a_loss_that_breaks_the_promise_of_its_entry_point_is_rejected(self, distributions, change, message):
        source = LOSS.replace(*change)
        assert source != LOSS
        install_foo(distributions, loss=source)
        with pytest.raises(PluginLoadError, match=r"foo-dist 1\.0") as caught:
            load_policy_loss("foo")
        assert message in str(caught.value)

    def test_an_inherited_api_version_does_not_count(self, distributions):
        base = LOSS.replace("class FooLoss", "class Base")
        install_foo(distributions, loss=base + '\nclass FooLoss(Base):\n    name = "foo"\n')
        with pytest.raises(PluginLoadError, match="api_version"):
            load_policy_loss("foo")

    def test_a_loss_for_another_version_of_the_contract_is_a_conflict(self, distributions):
        install_foo(distributions, loss=LOSS.replace("api_version = 1", "api_version = 2"))
        with pytest.raises(PluginConflictError, match="version 2"):
            load_policy_loss("foo")

    @pytest.mark.parametrize("params", ["foo_loss.params:no_such", "json:loads", "pathlib:Path"])
    def test_an_invalid_schema_is_rejected(self, distributions, params):
        install_foo(distributions, params=params)
        with pytest.raises(PluginLoadError, match="schema"):
            validate_loss_params("foo", {})

    def test_a_schema_that_differs_from_params_is_rejected(self, distributions):
        install_foo(distributions, params="foo_loss.params:OtherParams")
        with pytest.raises(PluginLoadError, match="OtherParams"):
            load_policy_loss("foo")

    def test_a_loss_without_a_name_gets_that_of_its_entry_point(self, distributions):
        install_foo(distributions, loss=LOSS.replace('name = "foo"', ""))
        assert load_policy_loss("foo").name == "foo"

    def test_validation_imports_no_torch(self):
        code = (
            "import sys; sys.modules['torch'] = None\n"
            "from skyrl_core import validate_loss_params\n"
            "from skyrl_core.errors import InvalidParamsError\n"
            "assert validate_loss_params('gspo', {}).clip_low > 0\n"
            "try: validate_loss_params('gspo', {'clip_low': -1})\n"
            "except InvalidParamsError as error: print(error)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert "clip_low = -1" in done.stdout


class TestRegisteredLoss:
    def test_a_class_is_registered_by_a_call_and_by_a_decorator(self):
        assert register_policy_loss("token", Token) is Token
        assert register_policy_loss("scalar")(Scalar) is Scalar
        assert load_policy_loss("token", {"coef": 2}).compute_loss(*batch()).item() == pytest.approx(3.0)
        assert load_policy_loss("script:scalar", {"factor": 4}).compute_loss(*batch()).item() == pytest.approx(6.0)
        assert load_policy_loss("scalar").name == "scalar"

    def test_a_function_is_a_loss_and_gets_its_parameters_as_keywords(self):
        @register_policy_loss("weighted")
        def weighted(log_probs, old_log_probs, advantages, masks, *, factor=1.0, **kwargs):
            """Weighted log-probs."""
            return -(factor * log_probs * masks).sum() / masks.sum()

        assert weighted(*batch()).item() == pytest.approx(1.5)
        loss = load_policy_loss("weighted", {"factor": 2.0})
        assert is_scalar_form(type(loss))
        assert loss.compute_loss(*batch()).item() == pytest.approx(3.0)
        assert type(loss).__module__ == __name__

    def test_it_is_listed_with_its_status(self):
        register_policy_loss("token", Token)
        register_policy_loss("scalar", Scalar)
        rows = {claim.name: claim for claim in policy_losses() if claim.distribution == "script"}
        assert {name: row.status for name, row in rows.items()} == {"token": "ok", "scalar": "untyped"}
        assert rows["token"].summary == "Minus the log-prob."
        assert rows["token"].value == f"{__name__}:Token"

    def test_its_schema_is_checked(self):
        register_policy_loss("token", Token)
        with pytest.raises(InvalidParamsError, match="coef = -1"):
            validate_loss_params("token", {"coef": -1})
        register_policy_loss("scalar", Scalar)
        assert validate_loss_params("scalar", {"anything": 1}).get("anything") == 1

    def test_a_second_loss_of_the_name_is_rejected_and_the_same_one_is_not(self):
        register_policy_loss("token", Token)
        register_policy_loss("token", Token)
        with pytest.raises(ValueError, match=r"Token and .*Scalar"):
            register_policy_loss("token", Scalar)

    def test_the_name_of_an_installed_loss_is_a_conflict(self):
        register_policy_loss("standard", Scalar)
        with pytest.raises(PluginConflictError, match="'script:standard' or 'skyrl-core:standard'"):
            load_policy_loss("standard")
        assert isinstance(load_policy_loss("script:standard"), Scalar)

    @pytest.mark.parametrize(
        "thing", [42, int, LossParams, Scalar(LossParams())], ids=["int", "type", "params", "instance"]
    )
    def test_anything_but_a_loss_is_rejected(self, thing):
        with pytest.raises(TypeError, match="PolicyLoss"):
            register_policy_loss("thing", thing)

    def test_an_unknown_name_is_an_error_with_the_nearest_registered_one(self):
        register_policy_loss("my_own_loss", Scalar)
        with pytest.raises(UnknownPluginError, match="did you mean 'my_own_loss'"):
            load_policy_loss("my_own_los")


class TestEstimators:
    def test_a_function_is_an_estimator(self):
        @register_advantage_estimator("centred")
        def centred(rewards, groups, scale=1.0):
            return scale * (rewards - rewards.mean())

        estimator = load_advantage_estimator("centred", {"scale": 2.0})
        assert isinstance(estimator, AdvantageEstimator)
        samples = AdvantageBatch(rewards=torch.tensor([0.0, 1.0]), groups=torch.tensor([0, 0]))
        assert estimator.estimate(samples).tolist() == [-1.0, 1.0]

    def test_a_class_is_an_estimator(self):
        class Zero(AdvantageEstimator):
            def estimate(self, batch):
                return torch.zeros_like(batch.rewards)

        assert register_advantage_estimator("zero", Zero) is Zero
        assert isinstance(load_advantage_estimator("zero"), Zero)
        with pytest.raises(TypeError, match="AdvantageEstimator"):
            register_advantage_estimator("loss", Token)

    def test_the_built_in_ones_are_entry_points(self):
        assert load_advantage_estimator("grpo").params.norm_by_std is True
        assert load_advantage_estimator("grpo", {"norm_by_std": False}).params.norm_by_std is False
        with pytest.raises(InvalidParamsError, match="did you mean 'norm_by_std'"):
            load_advantage_estimator("grpo", {"norm_by_sdt": False})

    def test_anything_but_an_estimator_is_rejected(self, distributions):
        distributions.add("foo-dist", {ESTIMATORS: {"foo": "json:loads"}})
        with pytest.raises(PluginLoadError, match="not a subclass of AdvantageEstimator"):
            load_advantage_estimator("foo")

    def test_one_that_lacks_a_method_is_rejected(self, distributions):
        source = "from skyrl_core import AdvantageEstimator\nclass Foo(AdvantageEstimator): pass\n"
        distributions.add("foo-dist", {ESTIMATORS: {"foo": "foo_est:Foo"}}, modules={"foo_est.py": source})
        with pytest.raises(PluginLoadError, match="abstract"):
            load_advantage_estimator("foo")


class TestIdentity:
    def test_of_an_installed_loss(self, distributions):
        install_foo(distributions)
        identity = describe_loss("foo", {"steps": 9})
        assert str(identity) == "foo-dist:foo@7"
        assert identity.params == {"coef": 0.5, "steps": 9}
        assert (identity.version, identity.value) == ("1.0", "foo_loss.loss:FooLoss")
        (distributions.path / "foo_loss" / "extra.py").write_text("")
        assert describe_loss("foo").files_sha256 != identity.files_sha256

    def test_of_a_registered_loss_it_has_the_hash_of_the_script(self):
        register_policy_loss("scalar", Scalar)
        identity = describe_loss("scalar", {"factor": 2})
        content = hashlib.sha256(Path(__file__).read_bytes()).digest()
        assert identity.files_sha256 == hashlib.sha256(b"script\0" + content).hexdigest()
        assert str(identity) == "script:scalar"
        assert identity.params == {"factor": 2}

    def test_of_a_loss_typed_into_a_prompt_the_hash_is_that_of_its_code_and_of_what_it_uses(self):
        hashes = [typed_hash(*cells) for cells in TYPED_CELLS]
        assert all(len(value) == 64 for value in hashes)
        assert hashes[0] == hashes[1]
        assert len(set(hashes[1:])) == len(TYPED_CELLS) - 1

    def test_of_a_cell_that_runs_again_the_hash_moves_on(self):
        sandbox = {"__name__": "__main__", "register_policy_loss": register_policy_loss}
        found = []
        for sign in ("", "-"):
            exec(
                f"@register_policy_loss('cell')\ndef cell(log_probs, *rest, **kw): return {sign}log_probs.sum()",
                sandbox,
            )
            found.append(describe_loss("cell"))
        assert str(found[0]) == str(found[1]) == "script:cell"
        assert found[0].files_sha256 != found[1].files_sha256
        assert load_policy_loss("cell").compute_loss(*batch()).item() == 3.0


CLASS_CELL = """
class Typed(PolicyLoss):
    sign = {sign}
    def compute_loss(self, log_probs, *rest, **kwargs): return {body}
"""
TYPED_CELLS = [
    ("factor = 1.0", CLASS_CELL.format(sign=1, body="log_probs.sum() * factor")),
    ("factor = 1.0", CLASS_CELL.format(sign=1, body="log_probs.sum() * factor")),
    ("factor = 2.0", CLASS_CELL.format(sign=1, body="log_probs.sum() * factor")),
    ("factor = 1.0", CLASS_CELL.format(sign=2, body="log_probs.sum() * factor")),
    ("factor = 1.0", CLASS_CELL.format(sign=1, body="log_probs.mean() * factor")),
    ("def factor(): return 1", CLASS_CELL.format(sign=1, body="log_probs.sum() * factor()")),
    ("def factor(): return 2", CLASS_CELL.format(sign=1, body="log_probs.sum() * factor()")),
]


def typed_hash(*cells):
    """The hash of the loss that the last cell defines, each executed as at a prompt, in a namespace of its own."""
    sandbox = {"__name__": "__main__", "PolicyLoss": PolicyLoss}
    for cell in cells:
        exec(cell, sandbox)
    register_policy_loss("typed", sandbox["Typed"])
    return describe_loss("typed").files_sha256
