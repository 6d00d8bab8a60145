"""Finds and reads the source of a module without importing it or its parent packages."""

import ast
import os
import warnings
from functools import lru_cache
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from threading import Lock

from skyrl_core.discovery.plugin_call import error_text
from skyrl_core.printable_text import printable

MAX_SOURCE_BYTES = 256 * 1024
"""A larger file is not read for its docstring."""

HEAD_BYTES = 4096
"""How much of a file is read to find a plain docstring."""

# In Python 3.11 all threads share the depth counter of syntax trees; they also share the warning filters.
_ONE_AT_A_TIME = Lock()


def top_level_spec(module: str) -> ModuleSpec | None:
    """The spec of the top-level package of a dotted name; None if it cannot be found.

    Finding the spec of the dotted name itself would import its parents.
    """
    try:
        return find_spec(module.partition(".")[0])
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - an import finder or a path hook may belong to anyone
        return None


def unfindable(package: str) -> str:
    """Why a top-level package cannot be found; empty if it can."""
    try:
        return "" if find_spec(package) is not None else f"package {package!r} cannot be found"
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - as above
        return f"package {package!r} cannot be looked up: {error_text(error)}"


def source_file(module: str) -> Path | None:
    """The ``.py`` file of a module; None if there is none on disk (missing, compiled, in a zip)."""
    chain = _package_folders(module)
    if chain is None:
        return None
    name = module.rpartition(".")[2]
    for folder in chain[-1]:
        for file in (folder / "__init__.py", folder.parent / f"{name}.py"):
            if os.path.isfile(file):  # Path.is_file raises if a folder may not be read
                return file
    spec = top_level_spec(module)
    single = Path(spec.origin or "") if spec and "." not in module else Path()
    return single if single.suffix == ".py" and os.path.isfile(single) else None


def docstring_line(file: Path) -> str:
    """First line of the module docstring; empty if it has none or cannot be read."""
    if plain := _plain_docstring_line(file):
        return plain
    tree = _parse(file)
    docstring = ast.get_docstring(tree, clean=False) if tree else None
    return (docstring or "").strip().partition("\n")[0].strip()


def class_constants(file: Path, name: str) -> dict[str, object]:
    """The literals that a top-level class assigns in its body, by name, read without an import.

    Numbers, booleans, None, and text without control characters.
    """
    tree = _parse(file)
    classes = [node for node in (tree.body if tree else ()) if isinstance(node, ast.ClassDef) and node.name == name]
    constants: dict[str, object] = {}
    for statement in classes[-1].body if classes else ():
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        value = getattr(statement, "value", None)
        if isinstance(value, ast.Constant) and isinstance(value.value, str | int | float | None):
            literal = printable(value.value) if isinstance(value.value, str) else value.value
            constants |= {target.id: literal for target in targets if isinstance(target, ast.Name)}
    return constants


def package_sha256(module: str) -> str:
    """SHA-256 over the relative paths and contents of all ``.py`` files of the module's package.

    The package is the outermost one with an ``__init__.py``, so that distributions that share a namespace stay
    separate; for a module outside any package, its file is hashed.

    Raises:
        FileNotFoundError: the source is not on disk.
    """
    folder = next((f for level in _package_folders(module) or () for f in level if (f / "__init__.py").is_file()), None)
    if folder is not None:
        # Not every match is a file: Emacs marks a file that is being edited with a dangling symlink.
        files = (file for file in folder.rglob("*.py") if file.is_file())
        return files_sha256({file.relative_to(folder).as_posix(): file for file in files})
    file = source_file(module)
    if file is None:
        raise FileNotFoundError(f"the source of module {module!r} is not on disk")
    return files_sha256({file.name: file})


def files_sha256(files: dict[str, Path]) -> str:
    """SHA-256 over files: names sorted, each followed by the SHA-256 of its content."""
    import hashlib  # loads OpenSSL, which a listing does not need

    digest = hashlib.sha256()
    for name in sorted(files):
        with files[name].open("rb") as stream:
            digest.update(name.encode() + b"\0" + hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _package_folders(module: str) -> list[list[Path]] | None:
    """The candidate folders of each level of a dotted name; None if the top-level package is missing."""
    spec = top_level_spec(module)
    if spec is None:
        return None
    chain = [[Path(folder) for folder in spec.submodule_search_locations or ()]]
    for part in module.split(".")[1:]:
        chain.append([folder / part for folder in chain[-1]])
    return chain


def _plain_docstring_line(file: Path) -> str:
    """The first docstring line, found without parsing the file; empty if the docstring is not plain.

    Most are plain: a literal in three double quotes at the very beginning, followed by a line break, without
    backslashes and carriage returns, whose first line is ASCII.
    """
    try:
        with file.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
    except (OSError, ValueError):
        return ""
    _, _, rest = head.partition(b'"""')
    docstring, closed, after = rest.partition(b'"""')
    plain = head.startswith(b'"""') and closed and after[:1] == b"\n" and not set(docstring) & set(b"\\\r")
    first = docstring.partition(b"\n")[0]
    return first.decode().strip() if plain and first.isascii() and b"\0" not in head else ""


def _parse(file: Path) -> ast.Module | None:
    try:
        status = os.stat(file)
    except (OSError, ValueError):
        return None
    return _parsed(file, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=256)
def _parsed(file: Path, changed: int, size: int) -> ast.Module | None:  # noqa: ARG001 - a part of the cache key
    if size > MAX_SOURCE_BYTES:
        return None
    try:
        with _ONE_AT_A_TIME, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about a plugin's source do not belong in a listing
            return ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None  # loading the plugin reports the fault
