"""Trains the tiny model from scratch: ``python -m skyrl_train.tiny_model.make FOLDER``.

It generates the corpus, trains the tokenizer, and trains a Qwen2 of 0.85 million parameters for 2000 steps of 128
examples on one CPU thread (20 to 30 minutes). Muon updates the matrices, AdamW the other weights; the learning rate is
constant, then decays over the last 40 % of the steps.
"""

import argparse
import hashlib
import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM

from skyrl_train.tiny_model.corpus import Example, examples
from skyrl_train.tiny_model.tokenizer import VOCABULARY, train_tokenizer

SEED = 0
STEPS, BATCH = 2000, 128
PEAK_LEARNING_RATE, WARMUP_STEPS, DECAY_FROM = 3e-3, 50, 1200
PROMPT_WEIGHT = 0.1
"""Weight of a prompt token's loss relative to an answer token's: enough to learn the language of the questions."""


def build_model(tokenizer: PreTrainedTokenizerBase) -> Qwen2ForCausalLM:
    """The untrained model in float32. The caller seeds torch."""
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Examples packed two per row, the longest with the shortest, which leaves hardly any padding."""

    input_ids: Tensor  # int64 [B/2, T]
    positions: Tensor  # int64 [B/2, T]; restarts at 0 where the second example starts
    weights: Tensor  # float32 [B/2, T]; weight of each token's loss: 0 for padding and first tokens


def batches(tokenizer: PreTrainedTokenizerBase, seed: int) -> Iterator[Batch]:
    """Endless batches of examples."""
    source = examples(seed)
    while True:
        yield _pack(tokenizer, list(itertools.islice(source, BATCH)))


def _pack(tokenizer: PreTrainedTokenizerBase, examples_: list[Example]) -> Batch:
    prompts = tokenizer([example.prompt for example in examples_])["input_ids"]
    answers = tokenizer([example.answer for example in examples_])["input_ids"]
    eos = [tokenizer.eos_token_id]
    pairs = sorted(
        ((p, a + eos) for p, a in zip(prompts, answers, strict=True)), key=lambda pair: len(pair[0] + pair[1])
    )
    rows = [(pairs[i], pairs[-1 - i]) for i in range(len(pairs) // 2)]
    shape = (len(rows), max(sum(len(p) + len(a) for p, a in row) for row in rows))
    batch = Batch(
        input_ids=torch.full(shape, tokenizer.pad_token_id),
        positions=torch.zeros(shape, dtype=torch.long),
        weights=torch.zeros(shape),
    )
    for row, pieces in enumerate(rows):
        start = 0
        for prompt, answer in pieces:
            middle, end = start + len(prompt), start + len(prompt) + len(answer)
            batch.input_ids[row, start:end] = torch.tensor(prompt + answer)
            batch.positions[row, start:end] = torch.arange(end - start)
            batch.weights[row, start + 1 : middle] = PROMPT_WEIGHT
            batch.weights[row, middle:end] = 1.0
            start = end
    return batch


def learning_rate(step: int, steps: int) -> float:
    """The learning rate of a step: linear warm-up, a constant, then linear decay to zero."""
    decay_from = DECAY_FROM * steps // STEPS
    decay = (steps - step) / (steps - decay_from) if step >= decay_from else 1.0
    return PEAK_LEARNING_RATE * min(1.0, (step + 1) / WARMUP_STEPS) * decay


def _optimizers(model: Qwen2ForCausalLM) -> list[torch.optim.Optimizer]:
    hidden = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(hidden, lr=PEAK_LEARNING_RATE, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=PEAK_LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def train(
    tokenizer: PreTrainedTokenizerBase, *, seed: int, steps: int, stop_after: int | None = None
) -> tuple[Qwen2ForCausalLM, list[float]]:
    """Train for ``steps`` steps, or stop early; returns the model in float32 and the loss of each step."""
    torch.manual_seed(seed)
    model = build_model(tokenizer)
    optimizers = _optimizers(model)
    losses: list[float] = []
    started = time.monotonic()
    for step, batch in enumerate(itertools.islice(batches(tokenizer, seed), stop_after or steps)):
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=batch.input_ids, position_ids=batch.positions, use_cache=False).logits
        token_losses = torch.nn.functional.cross_entropy(
            logits[:, :-1].float().flatten(0, 1), batch.input_ids[:, 1:].flatten(), reduction="none"
        )
        token_weights = batch.weights[:, 1:].flatten()
        loss = (token_losses * token_weights).sum() / token_weights.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, steps)
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step:5d}  loss {losses[-1]:.4f}  {time.monotonic() - started:6.0f} s", flush=True)
    return model, losses


def corpus_digest(seed: int, count: int = 1000) -> str:
    """SHA-256 of the first examples of the corpus; it changes when the generator changes."""
    digest = hashlib.sha256()
    for example in itertools.islice(examples(seed), count):
        digest.update(f"{example.prompt}\0{example.answer}\0".encode())
    return digest.hexdigest()


def make(folder: Path, *, seed: int = SEED, steps: int = STEPS) -> None:
    """Write the tokenizer, the trained weights in bfloat16 and ``provenance.json`` to the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(seed)
    model, losses = train(tokenizer, seed=seed, steps=steps)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    provenance = {
        "seed": seed,
        "steps": steps,
        "torch": torch.__version__,
        "corpus_sha256": corpus_digest(seed),
        "first_losses": [round(loss, 4) for loss in losses[:5]],
        "last_loss": round(losses[-1], 4),
        "files_sha256": {
            name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
            for name in ("model.safetensors", "tokenizer.json")
        },
    }
    (folder / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n")


def main() -> None:
    """Parse the command line and train the model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder to write the model to")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    make(arguments.folder, seed=arguments.seed, steps=arguments.steps)


if __name__ == "__main__":
    main()
