import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from skyrl_core.errors import PluginLoadError, SkyrlError, UnknownPluginError
from skyrl_train.environments.arithmetic import Arithmetic, ArithmeticParams
from skyrl_train.environments.environment import Completion, EnvironmentParams, Row
from skyrl_train.rewards.reward_result import Score
from skyrl_train.rewards.scorer import Scorer

HERE = Path(__file__).parent
LIMIT = 30
"""Seconds; no step of a test takes longer, even on a busy machine."""
ROW = Row(prompt=({"role": "user", "content": "What is 2+3?"},), ground_truth="5", environment="misbehaving")


@pytest.fixture
def misbehaving(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    import misbehaving

    return misbehaving


@pytest.fixture
def scorer(misbehaving):
    with Scorer({"misbehaving": misbehaving.environment()}) as scorer:
        yield scorer


@pytest.fixture
def short_deadline_scorer(misbehaving):
    """For rewards that hang. Not shorter, because a busy machine may delay the others by a second."""
    with Scorer({"misbehaving": misbehaving.environment()}, deadline=3.0) as scorer:
        yield scorer


def item(text, row=ROW):
    return Completion(text=text, token_ids=(1, 2), finished=True), row


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition):
    limit = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < limit, f"the condition is still false after {LIMIT} s"
        time.sleep(0.02)


def read_pid(path):
    wait_until(lambda: path.exists() and path.read_text())
    return int(path.read_text())


def test_rewards_come_back_in_the_order_of_the_items(misbehaving):
    items = [item(f"return: {number}") for number in range(100)]
    with Scorer({"misbehaving": misbehaving.environment()}, workers=3) as scorer:
        for _ in range(3):
            assert scorer.score(items) == [Score(reward=float(number)) for number in range(100)]


def test_every_failure_of_a_reward_affects_only_its_sample(short_deadline_scorer, tmp_path):
    expected = {
        "return: 0.25": None,
        f"hang: {tmp_path / 'pid'}": "TimeoutError: misbehaving reward took longer than 3 s",
        "return: 1": None,
        "exit: 3": "ChildProcessError: misbehaving reward ended its worker process with exit code 3",
        "crash: now": "ChildProcessError: misbehaving reward ended its worker process with signal SIGSEGV",
        "sys.exit: 4": "SystemExit: 4, raised by the misbehaving reward at misbehaving.py:",
        "raise: it": "KeyError: 'no such\\nkey', raised by the misbehaving reward at misbehaving.py:",
        "return: nan": "ValueError: misbehaving reward returned nan, not a finite number",
        "return: -inf": "ValueError: misbehaving reward returned -inf, not a finite number",
        "huge: x": "OverflowError: int too large to convert to float",
        "none: x": None,
        "text: yes": "TypeError: misbehaving reward returned 'yes' (str), not a number",
        "bool: x": "TypeError: misbehaving reward returned True (bool), not a number",
        "interrupt: x": None,
        "return: 0.5": None,
    }
    scores = dict(zip(expected, short_deadline_scorer.score([item(text) for text in expected]), strict=True))
    rewards = {text: score.reward for text, score in scores.items() if score.reward}
    assert rewards == {"return: 0.25": 0.25, "return: 1": 1.0, "interrupt: x": 1.0, "return: 0.5": 0.5}
    for text, start in expected.items():
        if start is None:
            assert scores[text].error is None
        else:
            assert scores[text].error.startswith(start)
            assert scores[text].error.endswith(f'(row {ROW.uid} "What is 2+3?")')
    assert not is_running(read_pid(tmp_path / "pid"))


def test_a_hung_reward_does_not_delay_the_other_workers(misbehaving, tmp_path):
    items = [item(f"hang: {tmp_path / 'pid'}"), *(item("return: 1") for _ in range(50))]
    with Scorer({"misbehaving": misbehaving.environment()}, workers=2, deadline=3.0) as scorer:
        scores = scorer.score(items)
    assert [score.reward for score in scores] == [None] + [1.0] * 50


def test_the_deadline_applies_to_each_reward_not_to_the_batch(misbehaving):
    with Scorer({"misbehaving": misbehaving.environment()}, deadline=2.0) as scorer:
        assert [score.reward for score in scorer.score([item("sleep: 0.2")] * 12)] == [1.0] * 12


def test_a_reward_that_never_releases_the_interpreter_lock_is_ended(short_deadline_scorer, tmp_path):
    scores = short_deadline_scorer.score([item(f"hold: {tmp_path / 'pid'}"), item("return: 1")])
    assert scores[0].error.startswith("TimeoutError")
    assert scores[1].reward == 1.0
    assert not is_running(read_pid(tmp_path / "pid"))


def test_a_process_that_a_hung_reward_started_is_ended_with_it(short_deadline_scorer, tmp_path):
    short_deadline_scorer.score([item(f"hang with child: {tmp_path / 'pid'}")])
    wait_until(lambda: not is_running(read_pid(tmp_path / "pid")))


def test_a_worker_that_died_between_two_batches_is_replaced_without_blame(scorer, tmp_path):
    scorer.score([item(f"pid: {tmp_path / 'pid'}")])
    os.kill(read_pid(tmp_path / "pid"), signal.SIGKILL)
    wait_until(lambda: not is_running(read_pid(tmp_path / "pid")))
    assert scorer.score([item("return: 1")]) == [Score(reward=1.0)]


def test_workers_start_once_and_end_with_the_context_manager(misbehaving, tmp_path):
    paths = [tmp_path / name for name in ("first", "second")]
    with Scorer({"misbehaving": misbehaving.environment()}) as scorer:
        for path in paths:
            scorer.score([item(f"pid: {path}")])
        first, second = map(read_pid, paths)
        assert first == second
        assert is_running(first)
        start = time.monotonic()
    assert time.monotonic() - start < LIMIT
    assert not is_running(first)


def test_no_process_is_started_for_an_empty_batch(misbehaving):
    with Scorer({"misbehaving": misbehaving.environment()}) as scorer:
        assert scorer.score([]) == []
        assert scorer._workers == []


def test_workers_load_no_torch(scorer):
    assert scorer.score([item("loaded: torch transformers datasets numpy")]) == [Score(reward=0.0)]


def test_several_environments_serve_one_batch(misbehaving):
    row = Row(prompt=ROW.prompt, ground_truth="5", environment="arithmetic")
    environments = {"misbehaving": misbehaving.environment(), "arithmetic": Arithmetic(ArithmeticParams())}
    with Scorer(environments) as scorer:
        scores = scorer.score([item("#### 5", row), item("return: 0.5"), item("#### 6", row)])
    assert [score.reward for score in scores] == [1.0, 0.5, 0.0]


def test_a_row_of_an_unknown_environment_is_an_error(scorer):
    row = Row(prompt=ROW.prompt, ground_truth="5", environment="gsm8k")
    with pytest.raises(UnknownPluginError, match="'gsm8k'; this run has misbehaving"):
        scorer.score([item("#### 5", row)])


def test_a_row_that_cannot_be_pickled_is_an_error_that_names_it(scorer):
    row = Row(prompt=ROW.prompt, ground_truth="5", environment="misbehaving", extra={"check": lambda: 1})
    with pytest.raises(SkyrlError, match=f"keep plain data.*{row.uid}"):
        scorer.score([item("return: 1", row)])
    assert scorer.score([item("return: 1")]) == [Score(reward=1.0)]


def test_an_environment_that_a_worker_cannot_prepare_is_an_error_not_a_reward(misbehaving):
    broken = misbehaving.BrokenInWorkers(EnvironmentParams())
    with (
        Scorer({"misbehaving": broken}) as scorer,
        pytest.raises(PluginLoadError, match=r"ImportError: libanswers\.so\.3 is missing"),
    ):
        scorer.score([item("return: 1")])


def test_workers_that_die_while_they_start_are_replaced(misbehaving, tmp_path):
    dying = misbehaving.DiesAtStart(EnvironmentParams(), tmp_path, 2)
    with Scorer({"misbehaving": dying}) as scorer:
        assert scorer.score([item("return: 1"), item("return: 2")]) == [Score(reward=1.0), Score(reward=2.0)]
    assert len(list(tmp_path.iterdir())) == 2


def test_three_failed_starts_in_a_row_are_an_error_that_reports_how_the_workers_ended(misbehaving, tmp_path):
    dying = misbehaving.DiesAtStart(EnvironmentParams(), tmp_path, 99)
    with Scorer({"misbehaving": dying}) as scorer:
        for started in (3, 4):  # the second call fails after one more start
            with pytest.raises(PluginLoadError, match="SIGKILL before its"):
                scorer.score([item("return: 1")])
            assert len(list(tmp_path.iterdir())) == started


def test_an_environment_that_cannot_be_pickled_is_an_error_at_once(misbehaving):
    class Local(misbehaving.Misbehaving):
        pass

    with pytest.raises(PluginLoadError, match=r"Local.*cannot be sent.*\n.*top level of a module"):
        Scorer({"misbehaving": Local(EnvironmentParams())})


SCRIPT = """
import sys
import {heavy}
from pathlib import Path
{environment}
from skyrl_train.environments.environment import Completion, Environment, EnvironmentParams, Row
from skyrl_train.rewards.scorer import Scorer

{guard}
    row = Row(prompt=({{"role": "user", "content": "?"}},), ground_truth="", environment="e")
    with Scorer({{"e": Env(EnvironmentParams())}}, deadline={deadline}) as scorer:
        completions = [Completion(text=text, token_ids=(), finished=True) for text in sys.argv[1:]]
        for score in scorer.score([(completion, row) for completion in completions]):
            print(score.reward, score.error, flush=True)
"""
IMPORTED = "from misbehaving import Misbehaving as Env"
DEFINED = IMPORTED + "\nclass Env(Env): pass"
GUARD = 'if __name__ == "__main__":'


@pytest.fixture
def start_script(tmp_path):
    """Start a small script in place of a training script; its arguments are the answers to reward."""
    (tmp_path / "heavy_import.py").write_text("")

    def start(*answers, environment=IMPORTED, guard=GUARD, deadline=60, by_module=False):
        script = tmp_path / "script.py"
        script.write_text(SCRIPT.format(heavy="heavy_import", environment=environment, guard=guard, deadline=deadline))
        program = ["-m", "script"] if by_module else [str(script)]
        return subprocess.Popen(
            [sys.executable, *program, *answers],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(tmp_path)])},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.mark.parametrize("by_module", [False, True])
def test_a_class_that_the_script_defines_is_found_in_the_workers(start_script, by_module):
    output, errors = start_script("return: 0.5", environment=DEFINED, by_module=by_module).communicate(timeout=60)
    assert output == "0.5 None\n", errors


def test_a_script_is_not_imported_if_the_environment_is_defined_elsewhere(start_script):
    output, errors = start_script("loaded: heavy_import").communicate(timeout=60)
    assert output == "0.0 None\n", errors


def test_a_script_without_a_main_guard_is_an_error_with_the_missing_line(start_script):
    process = start_script("return: 1", environment=DEFINED, guard="if True:")
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert 'put the call under `if __name__ == "__main__":`' in errors


def test_a_class_defined_at_a_prompt_is_an_error_with_a_remedy():
    code = SCRIPT.format(heavy="os", environment=DEFINED, guard="if True:", deadline=1)
    process = subprocess.run(
        [sys.executable, "-"],
        input=code,
        env={**os.environ, "PYTHONPATH": str(HERE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "move the class to a .py file" in process.stderr


def test_ctrl_c_ends_the_script_and_its_workers_at_once(start_script, tmp_path):
    process = start_script(f"hang: {tmp_path / 'pid'}")
    worker = read_pid(tmp_path / "pid")
    os.kill(worker, signal.SIGINT)  # workers ignore it
    time.sleep(0.2)
    assert is_running(worker)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=LIMIT)  # sooner than the deadline of the reward
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert not is_running(worker)


@pytest.mark.parametrize("action", ["hang", "hold"])
def test_workers_end_when_the_trainer_is_killed(start_script, tmp_path, action):
    process = start_script(f"{action}: {tmp_path / 'pid'}", deadline=1.5)
    worker = read_pid(tmp_path / "pid")
    process.kill()
    process.communicate()
    wait_until(lambda: not is_running(worker))


def test_an_idle_worker_ends_with_the_trainer_even_if_a_fork_of_it_holds_the_connection(tmp_path):
    code = (
        "import os, time, misbehaving\n"
        "from skyrl_train.environments.environment import Completion, Row\n"
        "from skyrl_train.rewards.scorer import Scorer\n"
        "row = Row(prompt=(), ground_truth='', environment='e')\n"
        "scorer = Scorer({'e': misbehaving.environment()})\n"
        f"scorer.score([(Completion(text='pid: {tmp_path / 'pid'}', token_ids=(), finished=True), row)])\n"
        "if fork := os.fork():\n"
        f"    open({str(tmp_path / 'fork')!r}, 'w').write(str(fork))\n"
        "time.sleep(3600)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(HERE)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    worker, fork = read_pid(tmp_path / "pid"), read_pid(tmp_path / "fork")
    process.kill()
    process.wait()
    try:
        wait_until(lambda: not is_running(worker))
    finally:
        os.kill(fork, signal.SIGKILL)  # it still runs


def test_an_interrupted_batch_leaves_no_stale_scores(misbehaving):
    with Scorer({"misbehaving": misbehaving.environment()}, deadline=30) as scorer:
        scorer.score([item("return: 1")])

        def interrupt(signum, frame):
            raise KeyboardInterrupt

        previous = signal.signal(signal.SIGALRM, interrupt)
        try:
            with pytest.raises(KeyboardInterrupt):
                scorer.score([item("alarm the trainer: now"), item("return: 7")])
        finally:
            signal.signal(signal.SIGALRM, previous)
        assert scorer.score([item("return: 0.5")]) == [Score(reward=0.5)]


def test_a_batch_of_quick_rewards_takes_milliseconds(scorer):
    items = [item("return: 1")] * 128
    scorer.score(items)
    seconds = []
    for _ in range(20):
        start = time.perf_counter()
        scorer.score(items)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.1  # 0.1 ms each on an idle machine, most of it for what other rewards may have changed


def test_the_child_of_a_reward_that_forks_sends_no_result(scorer):
    for _ in range(2):  # neither in this batch nor in the next
        scores = scorer.score([item(f"fork: {number}") for number in range(6)])
        assert [(score.reward, score.error) for score in scores] == [(float(number), None) for number in range(6)]


def test_a_leftover_alarm_of_a_reward_does_not_affect_the_next(misbehaving):
    with Scorer({"misbehaving": misbehaving.environment()}, workers=1) as scorer:
        assert scorer.score([item("alarm"), item("left of the alarm")]) == [Score(reward=1.0), Score(reward=0.0)]


def test_output_of_a_reward_goes_to_stderr(misbehaving, capfd):
    with Scorer({"misbehaving": misbehaving.environment()}) as scorer:
        assert scorer.score([item("print: checking")])[0].reward == 1.0
    printed = capfd.readouterr()
    assert "checking" not in printed.out
    assert "checking" in printed.err


def test_streams_can_be_opened_from_several_threads_at_once(scorer):
    opened = []

    def work():
        opened.extend(scorer.stream() for _ in range(40))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, opened))) == 160
    for stream in opened:
        stream.cancel()
