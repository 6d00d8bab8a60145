"""Convert GSM8K, 8,500 grade-school word problems, to one parquet file per split.

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
    """Read and write both splits, and print a summary."""
    parser = argparse.ArgumentParser(description="Prepare GSM8K as parquet files.")
    parser.add_argument("--source", type=Path, help="folder with train.jsonl and test.jsonl; default: download")
    parser.add_argument("--output", type=Path, default=Path("data/gsm8k"), help="folder to write; default: %(default)s")
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
    print("\nLast row:")
    print(json.dumps(rows[-1], indent=2, ensure_ascii=False))


def training_row(question: str, answer: str) -> dict:
    """Return the prompt as chat messages, the expected answer and the environment that rewards it."""
    _, marker, ground_truth = answer.rpartition("####")
    if not marker:
        sys.exit(f"answer has no result after ####: {answer!r}")
    return {
        "prompt": [{"role": "user", "content": f"{question}\n{INSTRUCTION}"}],
        "ground_truth": ground_truth.strip(),
        "environment": "gsm8k",
    }


def read_hub(split: str) -> Iterable[dict]:
    """Download a split as published by the authors."""
    try:
        return load_dataset(HUB_NAME, HUB_CONFIG, split=split)
    except OSError as error:
        sys.exit(
            f"cannot download {HUB_NAME} from the Hugging Face Hub: {error}\n"
            "Without a network, pass a folder with train.jsonl and test.jsonl: --source FOLDER"
        )


def read_folder(folder: Path, split: str) -> Iterable[dict]:
    """Read a split from a folder: one JSON object per line, with a question and an answer."""
    file = folder / f"{split}.jsonl"
    if not file.is_file():
        sys.exit(f"{file} does not exist; --source needs a folder with train.jsonl and test.jsonl")
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


if __name__ == "__main__":
    main()
