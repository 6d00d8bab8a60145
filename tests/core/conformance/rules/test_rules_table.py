"""The table at the top of rules/ lists every rule with the file that defines it."""

from pathlib import Path

from skyrl_core.conformance import RULES, rules

TABLE = (rules.__doc__ or "").splitlines()


def test_the_table_lists_the_rules_in_order_with_the_file_that_checks_them() -> None:
    rows = [(line.split()[0], line.split()[-1]) for line in TABLE if line.endswith(".py")]
    assert rows == [(rule.name, Path(rule.check.__code__.co_filename).name) for rule in RULES]


def test_there_is_one_file_per_rule_and_its_name_starts_with_the_rule() -> None:
    files = {path.name for path in Path(rules.__file__).parent.glob("*.py")} - {"__init__.py"}
    assert len(files) == len(RULES)
    for rule in RULES:
        file = Path(rule.check.__code__.co_filename)
        assert file.name in files
        assert file.name.startswith(rule.name)
        assert (file.read_text(encoding="utf-8")).startswith(f'"""Rule ``{rule.name}``: ')
