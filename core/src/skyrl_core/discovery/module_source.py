"""The source of a module, found and read without importing it or the packages that it is in."""

import ast
import os
import warnings
from functools import lru_cache
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from threading import Lock

from skyrl_core.discovery.printable_text import printable

MAX_SOURCE_BYTES = 256 * 1024
"""A larger file is not read for its docstring."""

HEAD_BYTES = 4096
"""What is read of a file whose docstring is plain."""

# Python 3.11 counts the depth of a syntax tree for all threads together, and so do its filters of warnings.
_ONE_AT_A_TIME = Lock()


def top_level_spec(module: str) -> ModuleSpec | None:
    """The spec of the top-level package of a dotted name; None where it cannot be found.

    The spec of the dotted name itself would import its parents.
    """
    try:
        return find_spec(module.partition(".")[0])
    except (ImportError, ValueError, AttributeError, OSError):
        return None


def source_file(module: str) -> Path | None:
    """The ``.py`` file of a module; None where there is none on disk (missing, compiled, in a zip)."""
    chain = _package_folders(module)
    if chain is None:
        return None
    name = module.rpartition(".")[2]
    for folder in chain[-1]:
        for file in (folder / "__init__.py", folder.parent / f"{name}.py"):
            if os.path.isfile(file):  # Path.is_file raises where a folder may not be read
                return file
    spec = top_level_spec(module)
    single = Path(spec.origin or "") if spec and "." not in module else Path()
    return single if single.suffix == ".py" and os.path.isfile(single) else None


def docstring_line(file: Path) -> str:
    """First line of the module docstring; empty where there is none that can be read."""
    if plain := _plain_docstring_line(file):
        return plain
    tree = _parse(file)
    docstring = ast.get_docstring(tree, clean=False) if tree else None
    return (docstring or "").strip().partition("\n")[0].strip()


def class_constants(file: Path, name: str) -> dict[str, object]:
    """The literals that a top-level class assigns in its body, by name: what can be said of it without importing it.

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
    """SHA-256 over the relative paths and contents of all ``.py`` files of the package that holds the module.

    The package is the outermost one with an ``__init__.py``, so that two distributions that share a namespace do not
    mix; a module outside any package stands for itself.

    Raises:
        FileNotFoundError: the source is not on disk.
    """
    folder = next((f for level in _package_folders(module) or () for f in level if (f / "__init__.py").is_file()), None)
    if folder is not None:
        # Not every match is a file: Emacs marks one that is being edited by a symbolic link to nowhere.
        files = (file for file in folder.rglob("*.py") if file.is_file())
        return files_sha256({file.relative_to(folder).as_posix(): file for file in files})
    file = source_file(module)
    if file is None:
        raise FileNotFoundError(f"the source of module {module!r} is not on disk")
    return files_sha256({file.name: file})


def files_sha256(files: dict[str, Path]) -> str:
    """SHA-256 over files: names sorted, each followed by the SHA-256 of its content."""
    import hashlib  # loads OpenSSL, which a listing need not pay for

    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + hashlib.sha256(files[name].read_bytes()).digest())
    return digest.hexdigest()


def _package_folders(module: str) -> list[list[Path]] | None:
    """Where each level of a dotted name may be, from the top-level package down; None if that is missing."""
    spec = top_level_spec(module)
    if spec is None:
        return None
    chain = [[Path(folder) for folder in spec.submodule_search_locations or ()]]
    for part in module.split(".")[1:]:
        chain.append([folder / part for folder in chain[-1]])
    return chain


def _plain_docstring_line(file: Path) -> str:
    """As most files have it, found without parsing them; empty where the docstring, if there is one, is less plain.

    Plain is a literal in three double quotes at the very beginning, of nothing but itself, without backslashes and
    carriage returns, whose first line is ASCII.
    """
    try:
        with file.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
    except (OSError, ValueError):
        return ""
    _, _, rest = head.partition(b'"""')
    docstring, closed, behind = rest.partition(b'"""')
    alone = head.startswith(b'"""') and closed and behind[:1] == b"\n" and not set(docstring) & set(b"\\\r")
    first = docstring.partition(b"\n")[0]
    return first.decode().strip() if alone and first.isascii() and b"\0" not in head else ""


def _parse(file: Path) -> ast.Module | None:
    try:
        status = os.stat(file)
    except (OSError, ValueError):
        return None
    return _parsed(file, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=256)
def _parsed(file: Path, changed: int, size: int) -> ast.Module | None:  # noqa: ARG001 - another time, another tree
    if size > MAX_SOURCE_BYTES:
        return None
    try:
        with _ONE_AT_A_TIME, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an invalid escape in somebody's source is not news of ours
            return ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None  # whatever is wrong with the file is said when the plugin is loaded
