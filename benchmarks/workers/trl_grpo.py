"""Run GRPO steps of TRL on a model folder; prints when each step ended, and the lengths and rewards of its samples.

The argument is JSON from grpo_throughput.py. The folder with TRL is on PYTHONPATH.
"""

import json
import sys
import tempfile
import time
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from skyrl_train.environments.arithmetic import Arithmetic
from skyrl_train.environments.environment import Completion, Row


class StepTimes(TrainerCallback):
    """Records when each step ended."""

    def __init__(self) -> None:
        self.ended: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Called by the trainer after the optimizer step."""
        self.ended.append(time.time())


def main() -> None:
    """Train, and print one line of JSON."""
    wanted = json.loads(sys.argv[1])
    torch.set_num_threads(wanted["threads"])
    tokenizer = AutoTokenizer.from_pretrained(wanted["model"])
    environment = Arithmetic(Arithmetic.Params())
    lengths: list[list[int]] = []
    rewards: list[float] = []

    def reward(
        completions: list[Any], completion_ids: list[list[int]], ground_truth: list[str], **_: Any
    ) -> list[float]:
        lengths.append([len(ids) for ids in completion_ids])
        scores = []
        for messages, ids, truth in zip(completions, completion_ids, ground_truth, strict=True):
            text = messages[0]["content"]
            completion = Completion(text=text, token_ids=tuple(ids), finished=ids[-1] == tokenizer.eos_token_id)
            row = Row(prompt=(), ground_truth=truth, environment="arithmetic", extra={})
            scores.append(environment.reward(completion, row))
        rewards.append(sum(scores) / len(scores))
        return scores

    times = StepTimes()
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(wanted["model"], dtype=torch.float32),
            reward_funcs=reward,
            args=_settings(wanted, folder),
            train_dataset=_prompts(environment, wanted),
            processing_class=tokenizer,
            callbacks=[times],
        )
        trainer.train()
    print(json.dumps({"ended": times.ended, "lengths": lengths, "rewards": rewards}))


def _settings(wanted: dict[str, Any], folder: str) -> GRPOConfig:
    samples = wanted["prompts_per_step"] * wanted["samples_per_prompt"]
    return GRPOConfig(
        output_dir=folder,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=samples,  # one call of generate and one micro-batch for the entire step
        gradient_accumulation_steps=1,
        num_generations=wanted["samples_per_prompt"],
        max_completion_length=wanted["max_new_tokens"],
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        beta=0.0,
        learning_rate=wanted["learning_rate"],
        lr_scheduler_type="constant",
        adam_beta2=0.95,
        max_grad_norm=1.0,
        max_steps=wanted["steps"],
        shuffle_dataset=False,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )


def _prompts(environment: Arithmetic, wanted: dict[str, Any]) -> Dataset:
    rows = environment.rows("train", seed=wanted["seed"])
    chosen = [next(rows) for _ in range(wanted["prompts_per_step"] * wanted["steps"])]
    return Dataset.from_list(
        [{"prompt": [dict(message) for message in row.prompt], "ground_truth": row.ground_truth} for row in chosen]
    )


if __name__ == "__main__":
    main()
