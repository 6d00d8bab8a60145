"""Finding and reading source files without an import."""

import ast
import hashlib
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from skyrl_core.discovery.module_source import class_constants, docstring_line, package_sha256, source_file

REFUSE = "raise SystemExit('imported')"


@pytest.fixture
def site(distributions):
    root = distributions.path
    for file, source in {
        "regular/__init__.py": REFUSE,
        "regular/inner/__init__.py": REFUSE,
        "regular/inner/mod.py": "x = 1",
        "namespace/part/__init__.py": REFUSE,
        "namespace/part/mod.py": "x = 1",
        "single.py": REFUSE,
    }.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(source)
    return root


@pytest.mark.parametrize(
    ("module", "file"),
    [
        ("regular", "regular/__init__.py"),
        ("regular.inner", "regular/inner/__init__.py"),
        ("regular.inner.mod", "regular/inner/mod.py"),
        ("namespace.part.mod", "namespace/part/mod.py"),
        ("single", "single.py"),
    ],
)
def test_a_module_is_found_without_importing_its_packages(site, module, file):
    assert source_file(module) == site / file
    assert not {"regular", "namespace", "single"} & sys.modules.keys()


@pytest.mark.parametrize(
    "module", ["no_such", "no_such.mod", "regular.no_such", "single.mod", "namespace", "sys", "", "..x", "__main__.x"]
)
def test_a_missing_module_is_none(site, module):
    assert source_file(module) is None


def test_a_package_in_a_zip_is_none(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "zipped.zip", "w") as archive:
        archive.writestr("zipped/__init__.py", '"""Zipped."""')
    monkeypatch.syspath_prepend(str(tmp_path / "zipped.zip"))
    assert source_file("zipped") is None
    with pytest.raises(FileNotFoundError, match="zipped"):
        package_sha256("zipped")


@pytest.mark.parametrize(
    ("source", "line"),
    [('"""One.\n\nTwo."""', "One."), ('\n\n"""\n\n  One.\n"""', "One."), ("x = 1\n'''late'''", ""), ("", "")],
)
def test_the_first_line_of_the_docstring(tmp_path, source, line):
    file = tmp_path / "module.py"
    file.write_text(source)
    assert docstring_line(file) == line


PLAIN = """Penalises what is far from "home"."""


@pytest.mark.parametrize(
    "source",
    [
        f'"""{PLAIN}"""\n',
        f'"""{PLAIN}\n\nMore.\n"""\nx = 1\n',
        f'"""  {PLAIN}  \n"""\n',
        f'"""{PLAIN}"""',
        f'"""{PLAIN}""" + x\n',
        f'"""{PLAIN}""" "more"\n',
        f'("""{PLAIN}""")\n',
        f'# {PLAIN}\n"""Other."""\n',
        f'x = """{PLAIN}"""\n',
        '"""Tab\\tand \\"""quotes\\""".\n"""\n',
        '"""Größe."""\n',
        f'"""\n{PLAIN}"""\n',
        f'"""{PLAIN}\r\nMore."""\r\n',
        f'"""{PLAIN}\rMore."""\n',
        f'"""{PLAIN}\n{"long " * 2000}\n"""\n',
        '""""""\n"""Other."""\n',
        f'"""{PLAIN}',
    ],
)
def test_a_docstring_that_is_found_without_parsing_is_that_of_python(tmp_path, source):
    file = tmp_path / "module.py"
    file.write_bytes(source.encode())
    try:
        wanted = ast.get_docstring(ast.parse(source.encode()), clean=False) or ""
    except SyntaxError:
        wanted = ""
    assert docstring_line(file) == wanted.strip().partition("\n")[0].strip()


def test_a_missing_file_has_no_docstring(tmp_path):
    assert docstring_line(tmp_path / "no_such.py") == ""


def test_class_constants_are_literals_of_the_class_body(tmp_path):
    file = tmp_path / "module.py"
    body = ["'Doc.'", "a = 1", "b: int = 2", "c: str", "d = e = 'x'", "f = g()", "h, i = 1, 2", "def j(self): k = 3"]
    file.write_text("class Other:\n    a = 0\n" + "\n    ".join(["class Loss(Other):", *body]))
    assert class_constants(file, "Loss") == {"a": 1, "b": 2, "d": "x", "e": "x"}
    assert class_constants(file, "Missing") == {}


def test_class_constants_are_safe_to_print(tmp_path):
    file = tmp_path / "module.py"
    body = ["a = '\\x1b[2Jred\\u202e'", "b = b'x'", "c = ...", "d = 1j", "e = None", "f = True", "g = '\\ud800'"]
    file.write_text("class Loss:\n    " + "\n    ".join(body))
    assert class_constants(file, "Loss") == {"a": "red", "e": None, "f": True, "g": ""}


@pytest.mark.parametrize("source", ["-" * 100_000 + "1", "x" + ".a" * 50_000, "# coding: zlib_codec\n'x'"])
def test_a_source_that_breaks_the_parser_has_no_docstring(tmp_path, source):
    file = tmp_path / "module.py"
    file.write_text(source)
    assert docstring_line(file) == ""


def digest_of(**contents):
    """By the definition: names sorted, each followed by a zero byte and the SHA-256 of the content."""
    parts = [name.encode() + b"\0" + hashlib.sha256(content).digest() for name, content in sorted(contents.items())]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def test_the_hash_of_a_package_covers_only_its_python_files(site):
    (site / "regular" / "data.json").write_text("{}")
    (site / "regular" / "__pycache__").mkdir()
    (site / "regular" / "__pycache__" / "x.pyc").write_bytes(b"x")
    expected = digest_of(
        **{
            "__init__.py": REFUSE.encode(),
            "inner/__init__.py": REFUSE.encode(),
            "inner/mod.py": b"x = 1",
        }
    )
    assert package_sha256("regular.inner.mod") == package_sha256("regular") == expected


def test_the_hash_changes_with_a_byte_and_with_a_name(site):
    before = package_sha256("regular")
    (site / "regular" / "inner" / "mod.py").write_text("x = 2")
    edited = package_sha256("regular")
    (site / "regular" / "inner" / "mod.py").rename(site / "regular" / "inner" / "mod2.py")
    assert len({before, edited, package_sha256("regular")}) == 3


def test_the_hash_leaves_out_other_packages_of_the_namespace(site):
    before = package_sha256("namespace.part.mod")
    (site / "namespace" / "other").mkdir()
    (site / "namespace" / "other" / "__init__.py").write_text("")
    assert (
        package_sha256("namespace.part.mod")
        == before
        == digest_of(**{"__init__.py": REFUSE.encode(), "mod.py": b"x = 1"})
    )


def test_the_hash_leaves_out_links_to_nowhere(site):
    before = package_sha256("regular")
    (site / "regular" / ".#mod.py").symlink_to("user@host.1234")  # as Emacs does to a file that is being edited
    (site / "regular" / "loop.py").symlink_to(site / "regular" / "loop.py")
    assert package_sha256("regular") == before


def test_a_package_that_is_a_link_to_itself_is_none(site):
    (site / "looped").symlink_to(site / "looped")
    assert source_file("looped.mod") is None


def test_for_a_module_outside_any_package_its_file_is_hashed(site):
    assert package_sha256("single") == digest_of(**{"single.py": REFUSE.encode()})


def test_threads_take_turns_at_parsing(monkeypatch, tmp_path):
    # Two syntax trees that are built at once are, now and then, a SystemError in Python 3.11.
    files = [tmp_path / f"module_{number}.py" for number in range(20)]
    for file in files:
        file.write_text(f'"""{file.stem}"""')
    parse, at_once, most = ast.parse, [], []

    def slow_parse(source):
        at_once.append(source)
        most.append(len(at_once))
        time.sleep(0.002)
        at_once.pop()
        return parse(source)

    monkeypatch.setattr(ast, "parse", slow_parse)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(docstring_line, files)) == [file.stem for file in files]
    assert set(most) == {1}


def test_a_file_is_read_again_when_it_has_changed(tmp_path):
    file = tmp_path / "module.py"
    file.write_text('"""before"""')
    assert docstring_line(file) == "before"
    file.write_text('"""a longer one"""')
    assert docstring_line(file) == "a longer one"
