"""Claims to names in temporary distributions: listing, rejecting and importing plugins."""

import functools
import importlib
import importlib.util
import json
import sys

import pytest

from skyrl_core.discovery.installed import MAX_DECLARATIONS
from skyrl_core.discovery.plugin_group import PluginGroup, PluginPolicy
from skyrl_core.errors import PluginConflictError, PluginLoadError, UnknownPluginError

GROUP = "skyrl.test_things"
PARAMS = "skyrl.test_thing_params"


@pytest.fixture
def things():
    return PluginGroup(GROUP, "thing")


def claims_by_distribution(group):
    return {claim.distribution: claim for claim in group.claims()}


def test_an_installed_plugin_is_listed_and_loaded(distributions, things):
    distributions.add(
        "foo-dist",
        {GROUP: {"foo": "foo_pkg.thing:Foo"}},
        version="1.2",
        modules={"foo_pkg/__init__.py": "", "foo_pkg/thing.py": '"""A thing.\n\nMore."""\nFoo = 42\n'},
    )
    [claim] = things.claims()
    assert tuple(claim) == ("foo", "foo_pkg.thing:Foo", "foo-dist", "1.2", "ok", "", "A thing.")
    assert "foo_pkg" not in sys.modules
    assert things.load("foo") == 42


def test_installing_and_uninstalling_is_noticed_within_the_process(distributions, things):
    assert things.claims() == []
    info = distributions.add("foo-dist", {GROUP: {"foo": "json:loads"}})
    assert [claim.name for claim in things.claims()] == ["foo"]
    for file in info.iterdir():
        file.unlink()
    info.rmdir()
    assert things.claims() == []


def test_two_distributions_that_claim_one_name_are_both_conflicts(distributions, things):
    distributions.add("dist-b", {GROUP: {"foo": "json:dumps"}}, version="2.0")
    distributions.add("dist-a", {GROUP: {"foo": "json:loads", "bar": "json:load"}})
    rows = [(claim.name, claim.distribution, claim.status) for claim in things.claims()]
    assert rows == [("bar", "dist-a", "ok"), ("foo", "dist-a", "conflict"), ("foo", "dist-b", "conflict")]
    with pytest.raises(
        PluginConflictError, match=r"dist-a 1\.0 and dist-b 2\.0.*'dist-a:foo' or 'dist-b:foo'"
    ) as caught:
        things.find("foo")
    assert caught.value.exit_code == 3


def test_a_qualified_name_resolves_a_conflict(distributions, things):
    distributions.add("dist-a", {GROUP: {"foo": "json:loads"}})
    distributions.add("dist-b", {GROUP: {"foo": "json:dumps"}})
    assert things.load("dist-a:foo") is json.loads
    assert things.load("Dist_B:foo") is json.dumps
    assert things.find("dist-b:foo").status == "ok"


def test_a_claim_whose_package_is_missing_still_conflicts(distributions, things):
    distributions.add("dist-a", {GROUP: {"foo": "json:loads"}})
    distributions.add("dist-b", {GROUP: {"foo": "no_such_package_b.x:Foo"}})
    assert {claim.status for claim in things.claims()} == {"conflict"}
    with pytest.raises(PluginConflictError):
        things.load("foo")


def test_denying_one_of_two_claims_ends_the_conflict(distributions, things):
    distributions.add("dist-a", {GROUP: {"foo": "json:loads"}})
    distributions.add("dist-b", {GROUP: {"foo": "json:dumps"}})
    policy = PluginPolicy(deny=["DIST.A"])
    assert {claim.distribution: claim.status for claim in things.claims(policy)} == {"dist-a": "denied", "dist-b": "ok"}
    assert things.load("foo", policy) is json.dumps


def test_conflicts_are_listed_alike_under_every_hash_seed(distributions, run_skyrl):
    for name in ("dist-c", "dist-a", "dist-b"):
        distributions.add(name, {"skyrl.policy_losses": {"foo": "json:loads", "bar": f"json:{name[-1]}"}})
    outputs = {run_skyrl("losses", "list", "--json", PYTHONHASHSEED=seed).stdout for seed in ("0", "1", "2", "3")}
    assert len(outputs) == 1
    rows = json.loads(outputs.pop())["losses"]
    assert [row["distribution"] for row in rows if row["name"] == "foo"] == ["dist-a", "dist-b", "dist-c"]
    assert {row["status"] for row in rows if row["name"] in ("foo", "bar")} == {"conflict"}


def test_the_same_distribution_seen_through_a_symlink_is_not_a_conflict(distributions, things, tmp_path, monkeypatch):
    distributions.add("foo-dist", {GROUP: {"foo": "json:loads"}})
    (tmp_path / "site64").symlink_to(distributions.path)
    monkeypatch.syspath_prepend(str(tmp_path / "site64"))
    monkeypatch.setattr(sys, "path", [*sys.path, str(distributions.path)])
    assert [(claim.name, claim.status) for claim in things.claims()] == [("foo", "ok")]


def test_the_first_copy_on_the_path_shadows_another_version(distributions, things, tmp_path, monkeypatch):
    distributions.add("foo-dist", {GROUP: {"foo": "json:loads"}}, version="1.0")
    later = type(distributions)(tmp_path / "later")
    later.add("Foo.Dist", {GROUP: {"foo": "json:dumps"}}, version="0.9")
    monkeypatch.setattr(sys, "path", [*sys.path, str(later.path)])
    assert [(claim.version, claim.status) for claim in things.claims()] == [("1.0", "ok")]


def test_two_versions_in_one_folder_are_broken(distributions, things):
    distributions.add("foo-dist", {GROUP: {"foo": "json:loads"}}, version="1.0")
    distributions.add("foo-dist", {GROUP: {"foo": "json:dumps"}}, version="2.0")
    [claim] = things.claims()
    assert claim.status == "broken"
    assert f"foo-dist 1.0 and foo-dist 2.0 are both in {distributions.path}" in claim.reason
    with pytest.raises(PluginLoadError):
        things.load("foo")


def test_stale_metadata_without_the_entry_point_does_not_hide_it(distributions, things, tmp_path, monkeypatch):
    distributions.add("foo-dist", {GROUP: {"foo": "json:loads"}})
    stale = type(distributions)(tmp_path / "stale")
    stale.add("foo-dist", {"console_scripts": {"foo": "json:tool"}}, version="0.1")
    monkeypatch.syspath_prepend(str(stale.path))
    assert things.load("foo") is json.loads


@pytest.mark.parametrize("value", ["not a ref!!", "json", "json:", ":loads", "json:loads [extra]", "a..b:c", ""])
def test_a_malformed_value_is_a_broken_row(distributions, things, value):
    distributions.add("foo-dist", {GROUP: {"foo": value}})
    [claim] = things.claims()
    assert claim.status == "broken"
    assert "module:Name" in claim.reason
    with pytest.raises(PluginLoadError, match="module:Name"):
        things.load("foo")


@pytest.mark.parametrize("name", ["Foo", "foo-bar", "1foo", "foo bar", "_foo", "f" * 64])
def test_an_invalid_name_is_a_broken_row(distributions, things, name):
    distributions.add("foo-dist", {GROUP: {name: "json:loads"}})
    [claim] = things.claims()
    assert (claim.name, claim.status) == (name, "broken")
    assert "lower-case" in claim.reason


@pytest.mark.parametrize("line", [b"gibberish", b"[no end", b"bar = a:Caf\xe9"])
def test_what_python_cannot_read_breaks_all_plugins_of_its_distribution(distributions, things, line):
    distributions.add("good-dist", {GROUP: {"good": "json:loads"}})
    info = distributions.add("foo-dist", {GROUP: {}})
    (info / "entry_points.txt").write_bytes(f"[{GROUP}]\n# note\nfoo = json:loads\n".encode() + line)
    claims = {claim.name: claim for claim in things.claims()}
    assert (claims["foo"].status, claims["good"].status) == ("broken", "ok")
    assert "Python cannot read its entry_points.txt" in claims["foo"].reason
    assert "uninstall foo-dist" in claims["foo"].reason


def test_comments_and_other_groups_are_not_plugins(distributions, things):
    info = distributions.add("foo-dist", {GROUP: {}})
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n# note\n; no = te\nfoo = json:loads\n[other]\nx = y:z\n")
    assert [(claim.name, claim.status) for claim in things.claims()] == [("foo", "ok")]


def test_a_name_that_one_distribution_declares_twice_is_one_broken_row(distributions, things):
    info = distributions.add("foo-dist", {GROUP: {}})
    (info / "entry_points.txt").write_text(f"[{GROUP}]\nfoo = json:loads\nfoo = json:dumps\n")
    [claim] = things.claims()
    assert claim.status == "broken"
    assert "foo-dist declares it as json:dumps and as json:loads" in claim.reason
    with pytest.raises(PluginLoadError, match="declares it as"):
        things.find("foo")


def test_a_distribution_that_declares_too_many_plugins_is_one_broken_row(distributions, things):
    distributions.add("many-dist", {GROUP: {f"m{number}": "json:loads" for number in range(MAX_DECLARATIONS + 1)}})
    distributions.add("most-dist", {GROUP: {f"n{number}": "json:loads" for number in range(MAX_DECLARATIONS)}})
    broken, *rest = things.claims()
    assert (broken.distribution, broken.status) == ("many-dist", "broken")
    assert f"more than {MAX_DECLARATIONS}" in broken.reason
    assert {(claim.distribution, claim.status) for claim in rest} == {("most-dist", "ok")}
    assert len(rest) == MAX_DECLARATIONS


@pytest.mark.parametrize("name", ["a; rm -rf ~", "-r evil", "$(evil)", "d" * 129, "script", "ünï"])
def test_a_distribution_whose_name_must_not_be_in_a_command_is_a_broken_row(distributions, things, name):
    info = distributions.add("foo-dist", {GROUP: {"foo": "no_such_package:Foo"}})
    (info / "METADATA").write_text(f"Name: {name}\n")
    [claim] = things.claims()
    assert claim.status == "broken"
    assert "is not a valid name for a distribution" in claim.reason
    assert "pip" not in claim.reason


def test_a_schema_that_is_declared_wrongly_breaks_its_plugin(distributions):
    group = PluginGroup(GROUP, "thing", params_group=PARAMS)
    distributions.add("foo-dist", {GROUP: {"foo": "json:loads"}, PARAMS: {"foo": "not a ref"}})
    [claim] = group.claims()
    assert claim.status == "broken"
    assert f"in {PARAMS}: its entry point 'not a ref'" in claim.reason


def test_what_is_printed_during_an_import_goes_to_stderr(distributions, things, capsys):
    distributions.add("foo-dist", {GROUP: {"foo": "foo_loud:Foo"}}, modules={"foo_loud.py": "print('noise')\nFoo = 1"})
    assert things.load("foo") == 1
    assert capsys.readouterr() == ("", "noise\n")


@pytest.mark.parametrize("url", ["file:///home/me/foo", "https://example.org/foo.git"])
def test_a_package_that_never_came_from_an_index_is_not_reinstalled_from_one(distributions, things, url):
    info = distributions.add("foo-dist", {GROUP: {"foo": "no_such_package:Foo"}})
    (info / "direct_url.json").write_text(json.dumps({"url": url, "dir_info": {"editable": True}}))
    [claim] = things.claims()
    assert f"it was installed from {url}: reinstall it from its current location" in claim.reason
    assert "--force-reinstall" not in claim.reason


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"url": 1}', "[" * 100_000])
def test_an_invalid_origin_is_ignored(distributions, things, text):
    info = distributions.add("foo-dist", {GROUP: {"foo": "no_such_package:Foo"}})
    (info / "direct_url.json").write_text(text)
    assert "--force-reinstall foo-dist" in things.claims()[0].reason


def test_a_missing_package_is_a_broken_row_with_a_repair_command(distributions, things):
    distributions.add("foo-dist", {GROUP: {"foo": "no_such_package.mod:Foo"}})
    [claim] = things.claims()
    assert claim.status == "broken"
    assert "'no_such_package'" in claim.reason
    assert "pip install --force-reinstall foo-dist" in claim.reason
    with pytest.raises(PluginLoadError):
        things.find("foo")


def test_a_dist_info_without_metadata_is_a_broken_row(distributions, things):
    distributions.add("foo-dist", {GROUP: {"foo": "json:loads"}}, metadata=False)
    [claim] = things.claims()
    assert (claim.distribution, claim.status) == ("?", "broken")
    assert str(distributions.path) in claim.reason
    assert "METADATA" in claim.reason


def test_metadata_that_is_not_utf8_does_not_stop_the_listing(distributions, things):
    info = distributions.add("foo-dist", {GROUP: {"foo": "json:loads"}})
    (info / "METADATA").write_bytes(b"Name: \xff\xfe\n")
    other = distributions.add("other", {GROUP: {}})
    (other / "entry_points.txt").write_bytes(b"\xff[skyrl.test_things]\n")
    assert [(claim.name, claim.status) for claim in things.claims()] == [("foo", "broken")]


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("import sys\nsys.exit(3)", "SystemExit: 3"),
        ("raise BaseException('boom\\nlast line')", "BaseException: boom last line"),
        ("class Mute(Exception):\n    def __str__(self): 1 / 0\nraise Mute", "Mute: (its message cannot be shown)"),
        ("import no_such_module_x", "No module named 'no_such_module_x'"),
        ("def broken(:", "SyntaxError"),
        ("x = 1", "has no attribute 'Foo'"),
    ],
)
def test_a_failed_import_reports_the_plugin_the_module_and_the_reason(distributions, things, source, why):
    distributions.add(
        "foo-dist",
        {GROUP: {"foo": "foo_bad.mod:Foo", "bar": "json:loads"}},
        modules={"foo_bad/__init__.py": "", "foo_bad/mod.py": source},
    )
    with pytest.raises(PluginLoadError) as caught:
        things.load("foo")
    message = str(caught.value)
    assert caught.value.exit_code == 5
    assert all(
        part in message for part in ("'foo'", "foo-dist 1.0", "foo_bad.mod:Foo", why, "pip install", "traceback")
    )
    assert things.load("bar") is json.loads


def test_ctrl_c_during_an_import_is_not_swallowed(distributions, things):
    distributions.add("foo-dist", {GROUP: {"foo": "foo_slow:Foo"}}, modules={"foo_slow.py": "raise KeyboardInterrupt"})
    with pytest.raises(KeyboardInterrupt):
        things.load("foo")


def sentinel_module(path):
    return f"open({str(path)!r}, 'w').close()\nFoo = 1\n"


@pytest.mark.parametrize("policy", [PluginPolicy(deny=("Foo_Dist",)), PluginPolicy(allow=("pytest",))])
def test_a_denied_plugin_is_never_imported(distributions, things, tmp_path, policy):
    sentinel = tmp_path / "imported"
    distributions.add(
        "foo-dist",
        {GROUP: {"foo": "foo_denied.mod:Foo"}},
        modules={"foo_denied/__init__.py": sentinel_module(sentinel), "foo_denied/mod.py": "Foo = 1"},
    )
    assert [claim.status for claim in things.claims(policy)] == ["denied"]
    with pytest.raises(PluginConflictError, match=r"plugins\.(deny|allow)"):
        things.load("foo", policy)
    assert not sentinel.exists()
    assert things.load("foo") == 1
    assert sentinel.exists()


def test_deny_beats_allow(distributions, things):
    distributions.add("foo-dist", {GROUP: {"foo": "json:loads"}})
    assert [claim.status for claim in things.claims(PluginPolicy(["foo-dist"], ["foo-dist"]))] == ["denied"]


def test_an_unknown_name_in_the_allow_list_is_an_error_with_the_nearest_one(distributions, things):
    distributions.add("foo-dist", {GROUP: {"foo": "json:loads"}})
    with pytest.raises(UnknownPluginError, match=r"'fo-dist'.*not installed; did you mean 'foo-dist'"):
        things.claims(PluginPolicy(allow=["fo-dist"]))


def test_an_unknown_name_is_an_error_with_the_nearest_one_and_all_available_ones(distributions, things):
    distributions.add("foo-dist", {GROUP: {"entropy": "json:loads", "broken": "x"}})
    with pytest.raises(UnknownPluginError) as caught:
        things.load("entropi")
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert "did you mean 'entropy'?" in message
    assert "available: entropy\n" in message
    assert "-m pip install" in message


@pytest.mark.parametrize("reference", ["", ":", "foo-dist:", "foo-dist:bar", "json:loads", "other:foo"])
def test_a_spec_that_matches_nothing_is_unknown(distributions, things, reference):
    distributions.add("foo-dist", {GROUP: {"foo": "json:loads"}})
    with pytest.raises(UnknownPluginError):
        things.find(reference)


def test_without_a_schema_of_the_same_name_and_distribution_a_plugin_is_untyped(distributions):
    group = PluginGroup(GROUP, "thing", params_group=PARAMS)
    distributions.add("dist-a", {GROUP: {"foo": "json:loads", "bar": "json:load"}, PARAMS: {"foo": "json:dumps"}})
    distributions.add("dist-b", {PARAMS: {"bar": "json:dumps"}})
    assert {claim.name: claim.status for claim in group.claims()} == {"foo": "ok", "bar": "untyped"}
    assert group.load("bar") is json.load


def test_a_plugin_that_requires_another_core_is_incompatible(distributions, things):
    distributions.add("foo-dist", {GROUP: {"foo": "json:loads"}}, requires=["torch", "skyrl-core<99,>=98"])
    [claim] = things.claims()
    assert claim.status == "incompatible"
    assert "skyrl-core<99,>=98" in claim.reason
    with pytest.raises(PluginConflictError, match="requires skyrl-core"):
        things.load("foo")


class TestSummary:
    def test_it_is_the_first_line_of_the_module_docstring(self, distributions, things):
        source = '# comment\n\nr"""  First \\d line.  \nSecond."""\nraise SystemExit\n'
        distributions.add(
            "foo-dist",
            {GROUP: {"foo": "foo_sum.a.b:Foo"}},
            summary="Of the distribution",
            modules={"foo_sum/a/b.py": source},
        )
        assert [claim.summary for claim in things.claims()] == ["First \\d line."]

    @pytest.mark.parametrize("source", ["x = 1", "def broken(:", "'''unclosed", '""', "b'bytes'", "\0", "(" * 100_000])
    def test_without_a_readable_docstring_it_is_that_of_the_distribution(self, distributions, things, source):
        distributions.add(
            "foo-dist", {GROUP: {"foo": "foo_sum:Foo"}}, summary="Of the distribution", modules={"foo_sum.py": source}
        )
        assert [claim.summary for claim in things.claims()] == ["Of the distribution"]

    def test_a_huge_docstring_is_cut(self, distributions, things):
        distributions.add(
            "foo-dist",
            {GROUP: {"foo": "foo_sum:Foo", "bar": "bar_sum:Bar"}},
            summary="Short",
            modules={"foo_sum.py": f'"""{"x" * 100_000}"""', "bar_sum.py": f'"""{"x" * 10_000_000}"""'},
        )
        assert {claim.name: claim.summary for claim in things.claims()} == {"foo": "x" * 199 + "…", "bar": "Short"}

    def test_it_cannot_control_the_terminal(self, distributions, things):
        source = '"""\x1b[31mred\x1b[0m \x1b]0;title\x07\u202eright\x9b to left\tend."""'
        distributions.add(
            "foo-dist",
            {GROUP: {"foo": "foo_sum:Foo", "bar": "json_missing:\x1b[2J"}},
            summary="\x1b[2Jcleared",
            modules={"foo_sum.py": source},
        )
        bar, foo = things.claims()
        assert foo.summary == "red right to left end."
        assert bar.summary == "cleared"
        assert all(field.isprintable() for claim in (foo, bar) for field in claim)


class TestRegister:
    def test_a_registered_plugin_is_listed_found_and_loaded(self, things):
        def foo():
            """Does foo.

            Really.
            """

        things.register("foo", foo, source=foo)
        [claim] = things.claims()
        assert (claim.name, claim.distribution, claim.status, claim.summary) == ("foo", "script", "ok", "Does foo.")
        assert things.load("foo") is foo
        assert things.load("script:foo") is foo
        assert things.is_registered(claim)

    def test_it_conflicts_with_an_installed_one(self, distributions, things):
        distributions.add("foo-dist", {GROUP: {"foo": "json:loads"}})
        things.register("foo", json.dumps, source=json.dumps)
        assert claims_by_distribution(things)["script"].status == "conflict"
        with pytest.raises(PluginConflictError, match="'foo-dist:foo' or 'script:foo'"):
            things.load("foo")
        assert things.load("script:foo") is json.dumps
        assert things.load("foo-dist:foo") is json.loads

    def test_another_one_of_the_same_name_is_rejected(self, things):
        things.register("foo", json.dumps, source=json.dumps)
        things.register("foo", json.dumps, source=json.dumps)
        with pytest.raises(ValueError, match="json:dumps and json:loads"):
            things.register("foo", json.loads, source=json.loads)

    def test_one_from_the_same_place_replaces_the_first(self, things):
        def define(text):
            def foo():
                return text

            foo.__doc__ = text
            return foo

        for text in ("first", "second"):
            edited = define(text)
            things.register("foo", edited, source=edited)
        [claim] = things.claims()
        assert things.load("foo")() == claim.summary == "second"

    def test_a_reloaded_module_replaces_what_it_registered(self, things, tmp_path, monkeypatch):
        (tmp_path / "reloaded_foo.py").write_text("def foo(): return 1\n")
        monkeypatch.syspath_prepend(tmp_path)
        module = importlib.import_module("reloaded_foo")
        things.register("foo", module.foo, source=module.foo)
        (tmp_path / "reloaded_foo.py").write_text("def foo(): return 'edited'\n")
        importlib.invalidate_caches()
        importlib.reload(module)
        things.register("foo", module.foo, source=module.foo)
        assert things.load("foo")() == "edited"

    def test_a_script_and_its_import_are_one_place_and_two_modules_are_not(self, things, tmp_path, monkeypatch):
        code = "def foo(): pass\n"
        modules = []
        for name, file in (("a_script", "foo.py"), ("an_import", "foo.py"), ("another", "bar.py")):
            (tmp_path / file).write_text(code)
            spec = importlib.util.spec_from_file_location(name, tmp_path / file)
            modules.append(importlib.util.module_from_spec(spec))
            monkeypatch.setitem(sys.modules, name, modules[-1])
            spec.loader.exec_module(modules[-1])
        things.register("foo", modules[0].foo, source=modules[0].foo)
        things.register("foo", modules[1].foo, source=modules[1].foo)
        with pytest.raises(ValueError, match="an_import:foo and another:foo; rename one of them"):
            things.register("foo", modules[2].foo, source=modules[2].foo)

    def test_a_lambda_of_a_file_is_replaced_only_from_its_line(self, things):
        for number in range(2):
            one = lambda number=number: number  # noqa: E731 - a lambda is the case
            things.register("foo", one, source=one)
        other = lambda: 2  # noqa: E731
        with pytest.raises(ValueError, match="registered twice"):
            things.register("foo", other, source=other)

    def test_an_object_without_a_name_is_replaced_only_by_itself(self, things):
        first, second = functools.partial(print), functools.partial(print)
        things.register("foo", first, source=first)
        things.register("foo", first, source=first)
        with pytest.raises(ValueError, match="registered twice"):
            things.register("foo", second, source=second)

    def test_a_plugin_knows_its_name(self, distributions, things):
        distributions.add("foo-dist", {GROUP: {"foo": "json:loads"}})
        assert things.name_of(json.loads) == "foo-dist:foo"
        assert things.name_of(json.dumps) is None
        things.register("bar", json.dumps, source=json.dump)
        assert things.name_of(json.dumps) == things.name_of(json.dump) == "bar"
        things.register("foo", json.JSONDecoder, source=json.JSONDecoder)
        assert things.name_of(json.JSONDecoder) == "script:foo"

    @pytest.mark.parametrize("name", ["", "Foo", "a b", "a:b"])
    def test_a_malformed_name_is_rejected(self, things, name):
        with pytest.raises(ValueError, match="lower-case"):
            things.register(name, json.dumps, source=json.dumps)


def test_a_plugin_without_an_optional_package_names_the_extra_that_adds_it(distributions, things):
    distributions.add(
        "foo-dist",
        {GROUP: {"foo": "foo_pkg:Foo"}},
        modules={"foo_pkg.py": "import no_such_module_here.inner\n"},
        requires=["other>=1", "no-such-module.here>=2; extra == 'speed'"],
    )
    with pytest.raises(PluginLoadError) as caught:
        things.load("foo")
    command = f"install no_such_module_here, which it needs: {sys.executable} -m pip install 'foo-dist[speed]'"
    assert str(caught.value).splitlines()[-1] == command
