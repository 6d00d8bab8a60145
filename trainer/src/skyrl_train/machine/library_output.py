"""Keeps libraries from writing between the lines that are meant for the user."""

import os
import warnings

import torch
from transformers.utils import logging as transformers_logging


def quiet() -> None:
    """Switch off progress bars and warnings that a user could do nothing about. Before DeepSpeed is imported."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed says that it chose it
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    # DeepSpeed's calls of collectives that torch is about to rename: nothing that a user could change.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.")
