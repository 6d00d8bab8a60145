"""Silences output of libraries that would clutter the lines for the user."""

import os
import warnings

import torch
from transformers.utils import logging as transformers_logging


def quiet() -> None:
    """Disable progress bars and warnings that a user cannot act on. Call it before DeepSpeed is imported."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # otherwise DeepSpeed logs its choice
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    # DeepSpeed calls collectives that torch is about to rename; a user cannot change that.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.")
