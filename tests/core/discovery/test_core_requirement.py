"""Bounds on skyrl-core against the installed version; packaging, the reference implementation, is the oracle."""

import pytest
from packaging.specifiers import SpecifierSet

from skyrl_core.discovery.core_requirement import unmet_core_requirement

VERSIONS = ["0.1", "0.1.0", "0.1.5", "0.2.0", "1.0", "1.4.2", "2.0", "10.1"]
BOUNDS = [
    ">=0.1,<0.2",
    "<0.2,>=0.1",
    "==0.1",
    "==0.1.*",
    "!=0.1.*",
    "!=1.0",
    "~=0.1.2",
    "~=1.2",
    ">1.0",
    "<=1.4.2",
    ">=2",
]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("bounds", BOUNDS)
def test_it_agrees_with_packaging_on_releases(version, bounds):
    met = version in SpecifierSet(bounds)
    assert unmet_core_requirement([f"skyrl-core{bounds}"], version) == ("" if met else bounds)


@pytest.mark.parametrize(
    "requirement",
    ["skyrl-core>=2", "skyrl_core (>=2)", "Skyrl.Core >=2", " skyrl-core>= 2 ", "skyrl--core>=2", "skyrl-core[x] >=2"],
)
def test_every_spelling_is_read(requirement):
    assert unmet_core_requirement(["torch", requirement], "1.0")


@pytest.mark.parametrize(
    "requirement",
    [
        "skyrl-core",
        "skyrl-core-extras>=2",
        "skyrl-core>=2; extra == 'new'",
        "skyrl-core @ file:///x",
        "torch>=2",
        "skyrl-core>=banana",
        "skyrl-core>=" + "9" * 5000,
        ";;;",
        "",
    ],
)
def test_a_requirement_that_it_does_not_judge_counts_as_met(requirement):
    assert unmet_core_requirement([requirement], "1.0") == ""


@pytest.mark.parametrize("bounds", [">=2.0rc1", "===9", ">=1.0.post1", "==1.0+local"])
def test_bounds_of_every_kind_are_judged(bounds):
    assert unmet_core_requirement([f"skyrl-core{bounds}"], "1.0") == bounds


def test_a_release_candidate_does_not_meet_the_upper_bound_of_its_release():
    assert unmet_core_requirement(["skyrl-core<0.2"], "0.2.0rc1") == "<0.2"
