"""Sampling seeds as a function of (run seed, step, prompt, sample), on any number of ranks."""

import hashlib


def sampling_seed(run_seed: int, step: int, prompt: int, sample: int, *, stream: str = "train") -> int:
    """A seed in 0..2^63-1. ``prompt``: position in the step; ``stream``: training or evaluation."""
    text = f"{stream}/{run_seed}/{step}/{prompt}/{sample}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1
