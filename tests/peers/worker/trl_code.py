"""`_compute_loss` and advantages of TRL, in real trainers of a tiny model. Only TRL's code computes here.

The log-probs of the policy are given, instead of those of the tiny model: nothing else is overridden.
"""

import contextlib
import tempfile

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
from trl.experimental.gmpo import GMPOConfig, GMPOTrainer
from trl.trainer import grpo_trainer as MODULE  # noqa: F401 - serve.py asks where it lies

WORDS = ["<pad>", "<eos>", "a", "b", "c", "d", "e", "f"]


class _Given:
    """A trainer whose policy gives every sampled token the log-prob of the test."""

    given = None

    def _get_per_token_logps_and_entropies(self, *arguments, **settings):
        if self.given is None:
            return super()._get_per_token_logps_and_entropies(*arguments, **settings)
        return self.given, torch.zeros_like(self.given), None


class GrpoOfGiven(_Given, GRPOTrainer):
    _name = "GRPO"


class GmpoOfGiven(_Given, GMPOTrainer):
    _name = "GMPO"


TRAINERS = {"grpo": (GrpoOfGiven, GRPOConfig), "gmpo": (GmpoOfGiven, GMPOConfig), "rloo": (RLOOTrainer, RLOOConfig)}


def _tokenizer():
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<pad>")


@contextlib.contextmanager
def _trainer(kind, batch_size, config, rewards=()):
    trainer_class, config_class = TRAINERS[kind]
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=len(WORDS), num_key_value_heads=1, **sizes))
    with tempfile.TemporaryDirectory() as folder:
        settings = {"num_generations": 2, "max_completion_length": 4, **config}
        model.save_pretrained(f"{folder}/model")
        trainer = trainer_class(
            model=f"{folder}/model",  # a path, because a trainer with a reference model loads it a second time
            reward_funcs=lambda completions, **_: list(rewards),
            args=config_class(
                output_dir=folder,
                use_cpu=True,
                bf16=False,
                report_to="none",
                per_device_train_batch_size=batch_size,
                **settings,
            ),
            train_dataset=Dataset.from_list([{"prompt": "a b"}] * batch_size),
            processing_class=_tokenizer(),
        )
        trainer.model.train()
        # The training loop of transformers sets it before the first loss.
        trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
        yield trainer


def policy_loss(log_probs, old_log_probs, advantages, mask, kind="grpo", config=None, num_items=None, **inputs):
    """The loss of one micro-batch; num_items are the tokens of the generation batch, as the trainer counts them."""
    with _trainer(kind, len(mask), config or {}) as trainer:
        trainer.given = log_probs.clone().requires_grad_()
        number = mask.sum() if num_items is None else torch.tensor(num_items)
        prompt = torch.full((len(mask), 1), 2)
        batch = {
            "prompt_ids": prompt,
            "prompt_mask": torch.ones_like(prompt),
            "completion_ids": torch.full(mask.shape, 2),
            "completion_mask": mask.long(),
            "advantages": advantages,
            "old_per_token_logps": old_log_probs,
            "num_items_in_batch": number,
            **inputs,
        }
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
        metrics = {name: values[-1] for name, values in trainer._metrics["train"].items()}
        return {"loss": loss.item(), "gradient": trainer.given.grad, "metrics": metrics}


def advantages(rewards, group_size, kind="grpo", config=None):
    """The advantages of completions of the tiny model with these rewards."""
    settings = {"num_generations": group_size, **(config or {})}
    with _trainer(kind, len(rewards), settings, rewards.tolist()) as trainer:
        inputs = [{"prompt": "a b"} for _ in rewards]
        return trainer._generate_and_score_completions(inputs)["advantages"]


def defaults():
    config = GRPOConfig(output_dir="unused", use_cpu=True, bf16=False)
    names = ("loss_type", "epsilon", "epsilon_high", "delta", "beta", "use_bias_correction_kl", "scale_rewards")
    return {name: getattr(config, name) for name in names}


def constructed(config):
    """Only builds the trainer: an error here comes before the first generation."""
    with _trainer("grpo", 2, config) as trainer:
        return trainer.loss_type
