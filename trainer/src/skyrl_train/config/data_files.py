"""Recognises data sources that are files or patterns of files, and lists what a pattern matches."""

import glob
from pathlib import Path

DATA_FILES = (".jsonl", ".parquet")
PATTERN_CHARACTERS = "*?["


def is_data_file(source: str) -> bool:
    """Whether a data source is a file or a pattern of files; otherwise it is a folder or a hub dataset."""
    return source.endswith(DATA_FILES) or is_pattern(source)


def is_pattern(source: str) -> bool:
    """Whether a data source is a pattern such as ``data/*.jsonl``; a file with such a name is not one."""
    return any(character in source for character in PATTERN_CHARACTERS) and not Path(source).expanduser().exists()


def files_of(source: str) -> list[str]:
    """The files that a data source names: those that match a pattern, sorted by path, or the source itself."""
    if not is_pattern(source):
        return [source]
    return sorted(glob.glob(str(Path(source).expanduser()), recursive=True))
