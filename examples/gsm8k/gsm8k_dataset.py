"""Prepares GSM8K, 8.5 thousand grade-school word problems, for training: writes one parquet file per split.

python examples/gsm8k/gsm8k_dataset.py                    # from the Hugging Face hub
python examples/gsm8k/gsm8k_dataset.py --source FOLDER    # from FOLDER/train.jsonl and FOLDER/test.jsonl
"""

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path

from datasets import Dataset, disable_progress_bars, load_dataset

HUB_NAME, HUB_CONFIG = "openai/gsm8k", "main"
SPLITS = ("train", "test")
INSTRUCTION = "Think step by step, and end with the final answer in the form `#### answer`."


def main() -> None:
    """Read both splits, write them, and print a summary."""
    parser = argparse.ArgumentParser(description="Prepare GSM8K as parquet files.")
    parser.add_argument("--source", type=Path, help="folder with train.jsonl and test.jsonl; default: the hub")
    parser.add_argument("--output", type=Path, default=Path("data/gsm8k"), help="folder to write: %(default)s")
    options = parser.parse_args()

    disable_progress_bars()
    options.output.mkdir(parents=True, exist_ok=True)
    print(f"{'split':8}{'rows':>6}  file")
    for split in SPLITS:
        problems = read_folder(options.source, split) if options.source else read_hub(split)
        rows = [training_row(problem["question"], problem["answer"]) for problem in problems]
        file = options.output / f"{split}.parquet"
        Dataset.from_list(rows).to_parquet(file)
        print(f"{split:8}{len(rows):>6}  {file}")
    print("\nThe last row:")
    print(json.dumps(rows[-1], indent=2, ensure_ascii=False))


def training_row(question: str, answer: str) -> dict:
    """A row for the trainer: the prompt as chat messages, the expected answer, and the environment."""
    _, marker, ground_truth = answer.rpartition("####")
    if not marker:
        sys.exit(f"this answer has no result after ####: {answer!r}")
    return {
        "prompt": [{"role": "user", "content": f"{question}\n{INSTRUCTION}"}],
        "ground_truth": ground_truth.strip(),
        "environment": "gsm8k",
    }


def read_hub(split: str) -> Iterable[dict]:
    """The problems of a split from the Hugging Face hub."""
    try:
        return load_dataset(HUB_NAME, HUB_CONFIG, split=split)
    except OSError as error:
        sys.exit(
            f"{HUB_NAME} could not be loaded from the hub: {error}\n"
            "Without a network, give a folder with train.jsonl and test.jsonl: --source FOLDER"
        )


def read_folder(folder: Path, split: str) -> Iterable[dict]:
    """The problems of a split from a folder: one JSON object per line, with a question and an answer."""
    file = folder / f"{split}.jsonl"
    if not file.is_file():
        sys.exit(f"{file} does not exist: --source needs a folder with train.jsonl and test.jsonl")
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


if __name__ == "__main__":
    main()
