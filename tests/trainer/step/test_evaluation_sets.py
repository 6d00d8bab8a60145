"""Evaluation sets: separate metrics, tables and charts; a set without a name has plain metric names."""

import io
from dataclasses import replace

from skyrl_train.config.data_schema import RESERVED_SET_NAMES
from skyrl_train.config.schema import RunConfig
from skyrl_train.step.evaluation import Evaluator
from skyrl_train.step.evaluation_sets import EvaluationSets
from skyrl_train.tracking.console import Console
from skyrl_train.tracking.history import History
from skyrl_train.tracking.html_report import draw_charts
from skyrl_train.tracking.metric_glossary import GLOSSARY, describe, evaluation_set
from skyrl_train.tracking.tracker import RunSummary

CONFIG = RunConfig.model_validate({"evaluation": {"prompts": 2}})
ANSWERS = {"one?": ["1"], "two?": ["0"]}


def test_each_set_has_its_name_as_prefix_and_the_same_result_as_without_other_sets(scripted, one_rank):
    parts = scripted(ANSWERS)
    alone = Evaluator(CONFIG, ranks=one_rank, **parts).evaluate()
    source = parts.pop("source")
    both = EvaluationSets(CONFIG, {"a": source, "b": source}, ranks=one_rank, **parts).evaluate()
    assert both.metrics == {f"{name}/{key}": value for name in "ab" for key, value in alone.metrics.items()}
    assert [answer.problem for answer in both.answers] == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    assert [replace(answer, problem=("", answer.problem[1])) for answer in both.answers] == [*alone.answers] * 2
    plain = EvaluationSets(CONFIG, {"": source}, ranks=one_rank, **parts).evaluate()
    assert (plain.metrics, plain.answers) == (alone.metrics, alone.answers)


def test_a_metric_name_is_split_into_set_and_metric():
    assert evaluation_set("math/accuracy/standard_error") == ("math", "accuracy/standard_error")
    assert evaluation_set("math/pass@4") == ("math", "pass@4")
    for name in ("accuracy/standard_error", "reward/mean", "loss/accuracy", "pass@4", "my_loss/share"):
        assert evaluation_set(name) == ("", name)
    assert (describe("math/accuracy").label, describe("math/accuracy").unit) == ("math accuracy", "percent")


def test_no_set_can_be_named_like_the_first_part_of_a_metric():
    first_parts = {entry.pattern.partition("/")[0] for entry in GLOSSARY if entry.pattern.endswith(("/*", "/mean"))}
    assert first_parts <= set(RESERVED_SET_NAMES)


def test_the_console_has_a_line_and_a_table_for_each_set_and_the_report_a_curve(tmp_path):
    metrics = {"a/accuracy": 0.25, "a/accuracy/standard_error": 0.1, "b/accuracy": 0.5}
    screen = io.StringIO()
    console = Console(screen)
    console.log_evaluation(0, metrics, final=False)
    console.finish(RunSummary(run_folder=tmp_path, steps=1, seconds=1.0, before=metrics, after=metrics))
    shown = screen.getvalue()
    assert "evaluation a before training: accuracy 25.0% ± 10.0\n" in shown
    assert "evaluation b before training: accuracy 50.0%\n" in shown
    assert "Held-out problems, a" in shown
    assert "Held-out problems, b" in shown
    charts = draw_charts(History(evaluations={0: metrics, 1: metrics}))
    assert [entry.label for chart in charts for entry in chart.legend] == ["accuracy, a", "accuracy, b"]
