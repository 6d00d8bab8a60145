"""Seconds of the matrix products of one GRPO step, with each prompt computed once; the argument is JSON."""

import json
import sys
import time

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from skyrl_train.environments.arithmetic import Arithmetic

REPEATS = 5


def main() -> None:
    """Print the seconds, the best of several runs."""
    wanted = json.loads(sys.argv[1])
    torch.set_num_threads(wanted["threads"])
    tokenizer = AutoTokenizer.from_pretrained(wanted["model"])
    rows = Arithmetic(Arithmetic.Params()).rows("train", seed=0)
    texts = [f"{next(rows).prompt[-1]['content']}\n" for _ in range(wanted["prompts"])]
    prompt = sum(len(ids) for ids in tokenizer(texts)["input_ids"])
    model = AutoModelForCausalLM.from_pretrained(wanted["model"], dtype=torch.float32)
    layers = [m.weight.detach() for m in model.modules() if isinstance(m, torch.nn.Linear)]
    samples = wanted["prompts"] * wanted["group"]
    drawn = samples * wanted["length"]
    # Each prompt once, also in the update: the minimum for a step.
    print(min(_step(layers, prompt, samples, wanted["length"], prompt + drawn) for _ in range(REPEATS)))


@torch.inference_mode()
def _step(layers: list[Tensor], prompt: int, samples: int, length: int, trained: int) -> float:
    """Prefill of ``prompt`` tokens, ``length`` products of ``samples`` rows, forward and backward of ``trained``."""
    started = time.perf_counter()
    for weight in layers:
        torch.ones(prompt, weight.shape[1]) @ weight.T
        row = torch.ones(samples, weight.shape[1])
        for _ in range(length):
            row @ weight.T
        inputs = torch.ones(trained, weight.shape[1])
        grads = inputs @ weight.T
        grads @ weight
        grads.T @ inputs
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
