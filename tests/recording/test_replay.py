"""The command ``fastapi-aqueduct replay``, as it is called from a shell."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastapi_aqueduct.testing import inline, read_task

from ..support import DEADLINE, script_environment, wait_until
from .handlers import Prepare, Read, Scan
from .replayed import SOURCE
from .test_files import write

COMMAND = (sys.executable, "-W", "error", "-c", "from fastapi_aqueduct.cli.main import main; main()", "replay")

FAULTS = ("raise", "fail", "write", "unpicklable", "crash", "exit", "hang", "last", "late", "blocked", "call")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of a user whose program was run, with a recorded task of each fault."""
    found = tmp_path_factory.mktemp("user")
    (found / "scans.py").write_text(SOURCE)
    done = run(found, sys.executable, "scans.py", *FAULTS)
    assert done.returncode == 0, done.stderr
    assert len(list((found / "failures").iterdir())) == len(FAULTS), done.stderr
    return found


@pytest.fixture
def fixed(directory: Path) -> Iterator[None]:
    """Have the user mend the code."""
    (directory / "scans.py").write_text(SOURCE.replace("FIXED = False", "FIXED = True"))
    yield
    (directory / "scans.py").write_text(SOURCE)


def run(directory: Path, *command: str, keys: str = "") -> subprocess.CompletedProcess[str]:
    # Without the plugins that other packages have installed for pytest, which would take most of the time.
    plain = {"PYTHONDONTWRITEBYTECODE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    environment = {**script_environment(), **plain}
    return subprocess.run(
        command, cwd=directory, env=environment, input=keys, capture_output=True, text=True, timeout=2 * DEADLINE
    )


def replay(directory: Path, fault: str, *options: str, keys: str = "") -> subprocess.CompletedProcess[str]:
    return run(directory, *COMMAND, str(path_of(directory, fault)), *options, keys=keys)


def path_of(directory: Path, fault: str) -> Path:
    """Return the file of a fault: they are in the order in which they were recorded, the call first."""
    return sorted((directory / "failures").iterdir())[(FAULTS.index(fault) + 1) % len(FAULTS)]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("raise", ["step read of flow scans failed at", "ValueError: no [text]", "it still fails"]),
        ("fail", ["KeyError: 'in the frame'", "it still fails"]),
        ("write", ["assignment destination is read-only", "it still fails"]),
        ("unpicklable", ["TaskNotPicklable", "it still fails"]),
        ("last", ["step stream of flow scans", "LookupError: at the end", "it still fails"]),
        ("call", ["step length of flow length failed", "RuntimeError: some text", "it still fails"]),
    ],
)
def test_a_task_still_fails(directory: Path, fault: str, words: list[str]) -> None:
    done = replay(directory, fault)
    assert done.returncode == 1, done
    for word in words:
        assert word in done.stdout, done
    assert not done.stderr
    assert ("cli/replay" in done.stdout) is (fault in ("fail", "unpicklable"))  # no frame of a user
    assert "here," not in done.stdout  # the same Python and packages


@pytest.mark.parametrize("fault", ["raise", "exit", "hang", "late", "call"])
def test_a_task_does_not_fail_any_more(directory: Path, fixed: None, fault: str) -> None:
    done = replay(directory, fault)
    assert done.returncode == 0, done
    assert "it does not fail any more" in done.stdout
    if fault == "raise":
        assert "step read: done in" in done.stdout and "step stream: done in" in done.stdout
        assert "1 items" in done.stdout and "prepare" not in done.stdout
        only = replay(directory, fault, "--step-only")
        assert only.returncode == 0 and "stream" not in only.stdout


def test_the_debugger_is_opened_where_it_fails(directory: Path) -> None:
    done = replay(directory, "raise", "--pdb", keys="p secret\nup\np task.words, self.model\nq\n")
    assert "(Pdb) 'in the frame'" in done.stdout and "(['prepared'], 'model of read')" in done.stdout
    assert done.returncode == 1


def test_a_crash_shows_where_it_was(directory: Path) -> None:
    done = replay(directory, "crash")
    assert done.returncode == 1 and "the process was killed by SIGSEGV\nit still fails" in done.stdout, done
    assert "Segmentation fault" in done.stderr and "in fail" in done.stderr


def test_an_exit_of_the_handler_is_a_failure_also_with_the_status_of_success(directory: Path) -> None:
    done = replay(directory, "exit")
    assert done.returncode == 1 and "the process exited with code 0\nit still fails" in done.stdout, done


@pytest.mark.parametrize(("fault", "keys"), [("hang", "p secret"), ("late", "up\np waits"), ("blocked", "p holds")])
def test_the_debugger_is_opened_where_it_hangs(directory: Path, fault: str, keys: str) -> None:
    """After the time that it had when it was recorded."""
    done = replay(directory, fault, "--pdb", keys=f"{keys}\nq\n")
    assert done.returncode == 1 and "the handler takes longer than handle_timeout=1 s" in done.stdout, done
    assert "it still fails" in done.stdout and "'in the frame'" in done.stdout


def test_ctrl_c_shows_where_it_is(directory: Path) -> None:
    hanging = directory / "hanging"
    hanging.unlink()
    command = [*COMMAND, str(path_of(directory, "raise")), "--pdb"]
    environment = {**script_environment(), "HANG": "1"}
    with subprocess.Popen(
        command, cwd=directory, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert wait_until(hanging.exists, DEADLINE)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate("p secret\nq\n", DEADLINE)
    assert process.returncode == 130
    assert "in fail\n" in output and "'in the frame'" in output


def test_a_replay_in_a_child_is_ended_by_ctrl_c_and_with_its_parent(directory: Path) -> None:
    hanging = directory / "hanging"
    command = [*COMMAND, str(path_of(directory, "exit"))]
    environment = {**script_environment(), "HANG": "1"}
    for number, status, words in [
        (signal.SIGINT, 130, "in fail\n"),
        (signal.SIGTERM, 1, "the process was killed by SIGTERM"),
    ]:
        hanging.unlink(missing_ok=True)
        with subprocess.Popen(
            command, cwd=directory, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
        ) as process:
            assert wait_until(hanging.exists, DEADLINE)
            os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
            output, _ = process.communicate(timeout=DEADLINE)  # the child has the other end, too
        assert (process.returncode, words in output) == (status, True), output


def test_what_happened_is_shown_and_nothing_is_opened(directory: Path, tmp_path: Path) -> None:
    """Also of a file that is not trusted, and without the code."""
    path = tmp_path / "copied.task"
    path.write_bytes(path_of(directory, "hang").read_bytes())
    path.chmod(0o666)
    done = run(tmp_path, *COMMAND, str(path), "--show")
    assert done.returncode == 0, done
    for word in ("step read of flow scans", "in fail", "handle_timeout=1 s", "target: scans:flow", "numpy", " words: "):
        assert word in done.stdout, done
    refused = run(tmp_path, *COMMAND, str(path))
    assert refused.returncode == 2
    assert "other users can write" in refused.stderr and "a pickle" in refused.stderr
    assert "ModuleNotFoundError" not in refused.stderr


@pytest.mark.parametrize(
    "fault", ["raise", pytest.param("crash", marks=pytest.mark.long), pytest.param("call", marks=pytest.mark.long)]
)
def test_a_test_fails_until_the_code_is_mended(directory: Path, fault: str, tmp_path: Path) -> None:
    """A crash runs in a worker process, and does not end the tests."""
    tests = directory / f"tests_{fault}"
    tests.mkdir()
    done = replay(directory, fault, "--as-test", str(tests))
    assert done.returncode == 0, done
    (test,) = tests.glob("*.py")
    assert test.stem.startswith("test_") and (tests / f"{test.stem}.task").stat().st_mode & 0o777 == 0o600
    pytest_command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"]
    failing = run(directory, *pytest_command, str(test))
    expected = {"raise": "ValueError: no [text]", "crash": "WorkerDied", "call": "RuntimeError: some text"}
    assert failing.returncode == 1 and expected[fault] in failing.stdout, failing
    source = (directory / "scans.py").read_text()
    (directory / "scans.py").write_text(source.replace("FIXED = False", "FIXED = True"))
    os.chmod(tests / f"{test.stem}.task", 0o664)  # as Git checks it out
    try:
        passing = run(directory, *pytest_command, str(test))
    finally:
        (directory / "scans.py").write_text(source)
    assert passing.returncode == 0 and "1 passed" in passing.stdout, passing
    if fault != "raise":
        return
    again = replay(directory, fault, "--as-test", str(tests))
    assert again.returncode == 2 and "exists already" in again.stderr


def test_arguments_that_cannot_work_are_refused(directory: Path) -> None:
    for options, words in {
        ("scans:nothing",): "has no nothing",
        ("scans:length",): "no flow 'scans'",
        ("scans:length", "--flow", "length"): "has no step read, in which the task has failed, but length",
        ("--as-test", "missing/test_it.py"): "there is no directory",
    }.items():
        done = replay(directory, "raise", *options)
        assert done.returncode == 2 and words in done.stderr, done


async def test_a_test_of_the_user_reads_a_task(tmp_path: Path) -> None:
    from fastapi_aqueduct import Flow, FlowStep, UnknownStep

    path = write(tmp_path / "failures", size=10)
    flow = Flow(FlowStep(Prepare(), name="prepare"), FlowStep(Read(), name="read"))
    task = read_task(path)
    assert isinstance(task, Scan) and task.fault == "raise"
    task.fault = ""
    async with inline(flow, steps=["read"]):
        await flow.process(task, DEADLINE)
    assert task.words == ["changed"] and task.text == "read"
    with pytest.raises(UnknownStep):
        inline(flow, steps=["nothing"])
