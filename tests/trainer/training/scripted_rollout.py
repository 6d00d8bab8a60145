"""A rollout whose questions, answers and rewards are given."""

from typing import Any

from skyrl_train.data.source import LoadedRows
from skyrl_train.environments.environment import Row
from skyrl_train.environments.score import Score
from skyrl_train.rollout.engine import Sample


class ScriptedEngine:
    """A rollout engine whose responses are given: by the prompt's text, one for each sample in turn."""

    def __init__(self, tokenizer: Any, answers: dict[str, list[str]]) -> None:
        self._tokenizer, self._answers = tokenizer, answers
        self.requests: list[Any] = []
        self.sampling: Any = None

    def generate(self, requests: Any, sampling: Any) -> list[Sample]:
        self.requests, self.sampling = list(requests), sampling
        samples, asked = [], dict.fromkeys(self._answers, 0)
        for request in requests:
            text = self._tokenizer.decode(list(request.prompt_ids), skip_special_tokens=True)
            question = next(question for question in self._answers if question in text)
            answer = self._answers[question][asked[question]]
            asked[question] += 1
            ids = tuple(self._tokenizer(answer)["input_ids"])
            samples.append(
                Sample(token_ids=ids, log_probs=(-1.0,) * len(ids), finished="cut" not in answer, policy_version=0)
            )
        return samples


class ScriptedStream:
    """Scores at once what it is given."""

    def __init__(self, scorer: "ScriptedScorer") -> None:
        self._scorer, self._scores = scorer, {}

    def add(self, index: int, item: Any) -> None:
        assert index not in self._scores
        self._scores[index] = self._scorer.score(*item)

    def close(self) -> None:
        pass

    def cancel(self) -> None:
        pass

    def scores(self) -> list[Score]:
        return [self._scores[index] for index in sorted(self._scores)]


class ScriptedScorer:
    """Rewards an answer with the number that it is; what is no number could not be rewarded."""

    def stream(self) -> "ScriptedStream":
        return ScriptedStream(self)

    def score(self, completion: Any, row: Row) -> Score:
        return self._score(completion.text, row)

    def _score(self, text: str, row: Row) -> Score:
        try:
            return Score(reward=float(text.replace("cut", "")))
        except ValueError:
            return Score(reward=0.0, error=f"no number: {text} (row {row.label})")


def scripted_rollout(tokenizer: Any, answers: dict[str, list[str]]) -> dict[str, Any]:
    """Source, engine, scorer and tokenizer of a rollout with these answers to each question."""
    rows = [
        Row(prompt=({"role": "user", "content": question},), ground_truth="1", environment="scripted")
        for question in answers
    ]
    return {
        "source": LoadedRows(rows, seed=0, shuffle=False),
        "engine": ScriptedEngine(tokenizer, answers),
        "scorer": ScriptedScorer(),
        "tokenizer": tokenizer,
    }
