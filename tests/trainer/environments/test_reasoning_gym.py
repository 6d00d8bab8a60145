import itertools
import pickle
import sys

import pytest

from skyrl_core.errors import InvalidParamsError, PluginLoadError, SkyrlError
from skyrl_train.environments.environment import Completion, Row
from skyrl_train.environments.load_environment import load_environment
from skyrl_train.rewards.scorer import Scorer


def test_without_the_package_the_error_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(PluginLoadError, match=r"pip install 'skyrl-train\[reasoning-gym\]'"):
        load_environment("reasoning_gym:leg_counting")


class TestWithThePackage:
    @pytest.fixture(autouse=True)
    def _package(self):
        pytest.importorskip("reasoning_gym", reason="the extra skyrl-train[reasoning-gym] is not installed")

    @staticmethod
    def completion(text):
        return Completion(text=text, token_ids=(), finished=True)

    def test_the_right_answer_is_rewarded_and_other_text_is_not(self):
        environment = load_environment("reasoning_gym:leg_counting")
        for row in itertools.islice(environment.rows("train", seed=0), 20):
            right = f"Let me count. <answer>1</answer> No: <answer> {row.ground_truth} </answer>"
            assert environment.reward(self.completion(right), row) == 1.0
            assert environment.reward(self.completion(row.ground_truth), row) == 0.0
            assert environment.reward(self.completion(f"<answer>{row.ground_truth}1</answer>"), row) < 1.0

    def test_no_puzzle_is_in_both_splits_and_a_seed_repeats_its_puzzles(self):
        environment = load_environment("reasoning_gym:leg_counting")

        def prompts(split, seed, count):
            return [row.prompt[0]["content"] for row in itertools.islice(environment.rows(split, seed=seed), count)]

        assert not set(prompts("train", 0, 2000)) & set(prompts("evaluation", 1, 500))
        assert prompts("train", 5, 20) == prompts("train", 5, 20)
        assert prompts("train", 5, 20) != prompts("train", 6, 20)

    def test_options_reach_the_generator(self):
        environment = load_environment("reasoning_gym:leg_counting", {"options": {"min_animals": 1, "max_animals": 1}})
        rows = itertools.islice(environment.rows("train", seed=0), 20)
        assert {row.extra["entry"]["metadata"]["num_animals"] for row in rows} == {1}

    def test_rewards_are_computed_in_workers(self):
        environment = pickle.loads(pickle.dumps(load_environment("reasoning_gym:leg_counting")))
        row = next(environment.rows("train", seed=0))
        with Scorer({"reasoning_gym:leg_counting": environment}) as scorer:
            (score,) = scorer.score([(self.completion(f"<answer>{row.ground_truth}</answer>"), row)])
        assert (score.reward, score.error) == (1.0, None)

    def test_an_unknown_task_is_an_error_that_suggests_the_nearest(self):
        with pytest.raises(InvalidParamsError, match="did you mean 'leg_counting'"):
            load_environment("reasoning_gym:leg_count")

    def test_options_that_the_task_rejects_are_an_error(self):
        with pytest.raises(InvalidParamsError, match=r"rejected by the task: .*max_animal"):
            load_environment("reasoning_gym:leg_counting", {"options": {"max_animal": 3}})

    def test_the_splits_of_a_task_with_few_puzzles_are_disjoint_too(self):
        options = {"min_animals": 1, "max_animals": 1, "min_instances": 1, "max_instances": 1}
        environment = load_environment("reasoning_gym:leg_counting", {"options": options})
        train, evaluation = (
            {row.prompt[0]["content"] for row in itertools.islice(environment.rows(split, seed=0), 300)}
            for split in ("train", "evaluation")
        )
        assert 0 < len(evaluation) < len(train) < 100
        assert not train & evaluation

    def test_a_row_from_a_file_cannot_be_rewarded(self):
        row = Row(
            prompt=({"role": "user", "content": "?"},), ground_truth="4", environment="reasoning_gym:leg_counting"
        )
        with pytest.raises(ValueError, match="generated, not read from files"):
            load_environment("reasoning_gym:leg_counting").reward(self.completion("<answer>4</answer>"), row)


def test_a_split_that_stays_empty_is_an_error_not_an_endless_search(monkeypatch):
    library = pytest.importorskip("reasoning_gym", reason="the extra skyrl-train[reasoning-gym] is not installed")

    class Constant:
        def __getitem__(self, index):
            return {"question": "What is 1 + 1?", "answer": "2", "metadata": {}}

    monkeypatch.setattr(library, "create_dataset", lambda *_, **__: Constant())
    environment = load_environment("reasoning_gym:leg_counting")
    # The checksum of the question above selects the training split.
    assert next(environment.rows("train", seed=0)).ground_truth == "2"
    with pytest.raises(SkyrlError, match=r"10000 puzzles but none for the evaluation split.*too few different puzzles"):
        next(environment.rows("evaluation", seed=0))
