"""The tiny model that ships with the trainer, and the script that trains it."""

from pathlib import Path

TINY_MODEL = Path(__file__).parent / "weights"
"""Folder of the model: a Qwen2 of 0.85 million parameters in bfloat16, with its tokenizer."""
