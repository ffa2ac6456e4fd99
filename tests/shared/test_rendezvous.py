"""How API processes come to a pipeline process: one starts it, the others wait; over real sockets and processes."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fastapi_aqueduct.engine.shared.handshake import Hello
from fastapi_aqueduct.engine.shared.host_lock import HostLock, held_beside
from fastapi_aqueduct.engine.shared.rendezvous import HostRendezvous, Rendezvous, SocketRendezvous
from fastapi_aqueduct.engine.shared.server_identity import ServerIdentity
from fastapi_aqueduct.engine.shared.socket_path import MAX_PATH, check_directory, check_path, host_directory
from fastapi_aqueduct.engine.timing import DEFAULT_TIMING, Timing
from fastapi_aqueduct.exceptions import ConfigurationError, StartError, StartTimeout

from ..support import DEADLINE, Ends, run_script, script_environment, wait_until
from .pipeline_process import STEPS, launcher

IMPATIENT = Timing(answer_grace=0.0, patience=0.05)

HELLO = Hello("1.2.3", "ocr", "f00f00f00f00f00f", os.getpid())


class Host:
    """A host on which pipeline processes run.

    Args:
        directory: Where they write what they do.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.act("serve")

    def act(self, act: str, waiting: int = 1) -> None:
        """Say what the next pipeline processes do."""
        (self.directory / "waiting").write_text(str(waiting))
        (self.directory / "act").write_text(act)

    def rendezvous(self, hello: Hello = HELLO, timing: Timing = DEFAULT_TIMING) -> HostRendezvous:
        return HostRendezvous(hello, launcher(self.directory), timing)

    def started(self) -> list[int]:
        """List the pipeline processes that were started."""
        return self._lines("starts")

    def greeted(self) -> list[int]:
        """List the API processes that have said hello."""
        return self._lines("hellos")

    def files(self) -> set[str]:
        return {file.suffix for file in (self.directory / "aqueduct").iterdir()}

    def _lines(self, name: str) -> list[int]:
        with contextlib.suppress(FileNotFoundError):
            return list(map(int, (self.directory / name).read_text().split()))
        return []


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    host = Host(tmp_path)
    yield host
    for pid in host.started():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def connect(rendezvous: Rendezvous, seconds: float = DEADLINE) -> int:
    """Connect, and return the pid of the pipeline process."""
    end = rendezvous.connect(time.monotonic() + seconds)
    end.close()
    return end.welcome.pid


def test_the_first_starts_the_pipeline_and_the_others_wait(host: Host) -> None:
    """Each process has the connection that it came for, however many come at the same time."""
    with ThreadPoolExecutor(8) as pool:
        pids = set(pool.map(connect, [host.rendezvous() for _ in range(8)]))
    assert pids == set(host.started())
    assert len(pids) == 1
    assert connect(host.rendezvous()) in pids
    assert os.getsid(pids.pop()) == host.started()[0]  # Ctrl-C in a terminal does not reach it
    assert host.files() == {".sock", ".lock"}


CHILD = """
import os, sys, time
from pathlib import Path
from tests.shared.pipeline_process import launcher
from fastapi_aqueduct.engine.shared.handshake import Hello
from fastapi_aqueduct.engine.shared.rendezvous import HostRendezvous

rendezvous = HostRendezvous(Hello("1.2.3", "ocr", "f00f00f00f00f00f", os.getpid()), launcher(Path(sys.argv[1])))
print(rendezvous.connect(time.monotonic() + 20).welcome.pid, flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def api_process(host: Host, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", CHILD, str(host.directory)]
    env = {**script_environment(), **variables}
    with subprocess.Popen(
        command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[bytes]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


def test_processes_of_one_server_share_a_pipeline_that_outlives_the_one_that_started_it(host: Host) -> None:
    with api_process(host) as first:
        pipeline = said(first)
        with api_process(host) as second:
            assert said(second) == pipeline
            os.killpg(first.pid, signal.SIGKILL)
            first.wait(DEADLINE)
            assert second.poll() is None
            with api_process(host) as third:
                assert said(third) == pipeline
    assert host.started() == [pipeline]


def test_programs_of_one_shell_share_a_pipeline_if_their_environment_is_the_same(host: Host) -> None:
    """Workers inherit it. The numbers by which process managers tell programs apart do not count."""
    with (
        api_process(host, MODEL_PATH="a", PORT="8001", PS="web.1") as first,
        api_process(host, MODEL_PATH="a", PORT="8002", PS="web.2") as second,
        api_process(host, MODEL_PATH="b") as third,
    ):
        assert said(first) == said(second) != said(third)


ALIKE = """
import multiprocessing, os
from fastapi_aqueduct.engine.shared.server_identity import ServerIdentity

def ask(number, answers):
    os.environ["WORKER_NUMBER"] = str(number)
    answers.send(ServerIdentity.read().digest("ocr"))

if __name__ == "__main__":
    ours, theirs = multiprocessing.Pipe()
    children = [multiprocessing.get_context("spawn").Process(target=ask, args=(number, theirs)) for number in (1, 2)]
    for child in children:
        child.start()
    print(len({ours.recv() for _ in children}))
    for child in children:
        child.join()
"""


def test_what_processes_of_one_server_set_in_their_environment_does_not_count(tmp_path: Path) -> None:
    """As a hook of a server does that numbers its processes."""
    assert run_script(tmp_path, ALIKE) == "1\n"


def test_after_the_death_of_the_pipeline_another_process_starts_the_next(host: Host) -> None:
    """The lock goes with the process, and a socket of a dead process is no obstacle."""
    ours, theirs = host.rendezvous(), host.rendezvous()
    first = connect(ours)
    with Ends([first]) as ends:
        os.kill(first, signal.SIGKILL)
        assert ends.wait(DEADLINE) == set()
    with ThreadPoolExecutor(2) as pool:
        second, third = pool.map(connect, [theirs, ours])
    assert second == third != first
    assert host.started() == [first, second]


def test_a_failed_start_is_raised_by_all_that_wait_and_tried_once(host: Host) -> None:
    host.act("fail", waiting=4)
    with ThreadPoolExecutor(4) as pool:
        tries = [pool.submit(connect, host.rendezvous()) for _ in range(4)]
        for done in tries:
            with pytest.raises(StartError, match="a worker of read in flow ocr failed: no weights") as raised:
                done.result(DEADLINE)
            assert raised.value.step == "read"
    assert len(host.started()) == 1
    host.act("serve")
    assert connect(host.rendezvous()) == host.started()[1]


def test_a_pipeline_process_that_ends_before_it_listens_is_an_error_at_once(host: Host) -> None:
    host.act("exit")
    rendezvous = host.rendezvous()
    with pytest.raises(StartError, match="of flow ocr ended with exit code 3 before it was ready") as raised:
        connect(rendezvous)
    assert (raised.value.pid, raised.value.exit_code) == (host.started()[0], 3)
    host.act("serve")
    assert connect(rendezvous) == host.started()[1]


def test_a_pipeline_process_that_is_killed_while_it_starts_is_an_error_at_once(host: Host) -> None:
    host.act("hang")
    with ThreadPoolExecutor(1) as pool:
        connected = pool.submit(connect, host.rendezvous())
        assert wait_until(host.greeted, DEADLINE)
        os.kill(host.started()[0], signal.SIGKILL)
        with pytest.raises(StartError, match="ended with exit code -9"):
            connected.result(DEADLINE)


def test_connections_without_an_answer_are_tried_again(host: Host) -> None:
    host.act("leave 3")
    assert connect(host.rendezvous()) == host.started()[0]


def test_the_wait_ends_at_the_deadline_with_a_pipeline_that_hangs(host: Host) -> None:
    connect(host.rendezvous())
    os.kill(host.started()[0], signal.SIGSTOP)
    with pytest.raises(StartTimeout, match="flow ocr was not ready in time"):
        connect(host.rendezvous(timing=IMPATIENT), 0.1)


def test_the_wait_ends_at_the_deadline_with_a_holder_of_the_lock_that_does_not_listen(host: Host) -> None:
    rendezvous = host.rendezvous()
    fd = HostLock(rendezvous._file).take()
    assert fd is not None
    with pytest.raises(StartTimeout, match=r"the process that holds \S*\.lock does not listen"):
        connect(rendezvous, 0.05)
    os.close(fd)


@pytest.mark.parametrize("act", ["hang", "nothing"])
def test_a_cancellation_ends_the_wait(act: str, host: Host) -> None:
    """At the exit of the interpreter a thread that waits would be waited for."""
    rendezvous = host.rendezvous(timing=IMPATIENT)
    if act == "nothing":
        fd = HostLock(rendezvous._file).take()
    host.act(act)
    with ThreadPoolExecutor(1) as pool:
        connected = pool.submit(connect, rendezvous, 600)
        assert act == "nothing" or wait_until(host.greeted, DEADLINE)
        rendezvous.cancel()
        with pytest.raises(StartError, match="was cancelled"):
            connected.result(DEADLINE)
    with pytest.raises(StartError, match="was cancelled"):
        connect(rendezvous)
    rendezvous.resume()
    with pytest.raises(StartTimeout):
        connect(rendezvous, 0.0)
    if act == "nothing":
        assert fd is not None
        os.close(fd)


@pytest.mark.parametrize(
    "other", [Hello("1.2.3", "tts", HELLO.fingerprint, 1), Hello("1.2.3", "ocr", "c0dec0dec0dec0de", 1)]
)
def test_other_flows_and_other_code_have_pipelines_of_their_own(other: Hello, host: Host) -> None:
    assert connect(host.rendezvous()) != connect(host.rendezvous(other))


def test_changed_code_in_a_server_that_runs_is_logged(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """For other flows, and for a pipeline that has ended, nothing is."""
    first = connect(host.rendezvous())
    connect(host.rendezvous(Hello("1.2.3", "tts", HELLO.fingerprint, 1)))
    assert not caplog.records
    changed = Hello("1.2.3", "ocr", "c0dec0dec0dec0de", 1)
    connect(host.rendezvous(changed))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"flow ocr gets a second pipeline process in the server with the parent {os.getppid()}" in record.message
    caplog.clear()
    with Ends(host.started()) as ends:
        for pid in host.started():
            os.kill(pid, signal.SIGKILL)
        assert ends.wait(DEADLINE) == set()
    assert connect(host.rendezvous()) != first
    assert not caplog.records


def test_what_killed_pipelines_have_left_is_removed(host: Host) -> None:
    """Each start of a server has names of its own, so nothing else would reuse them."""
    connect(host.rendezvous())
    (pid,) = host.started()
    with Ends([pid]) as ends:
        os.kill(pid, signal.SIGKILL)
        assert ends.wait(DEADLINE) == set()
    other = host.directory / "aqueduct" / "other.sock"
    assert list(held_beside(other)) == []
    assert host.files() == set()


def test_a_lock_whose_file_was_removed_is_taken_again(tmp_path: Path) -> None:
    """The holder removes the file before it frees the lock."""
    lock = HostLock(tmp_path / "ocr.sock")
    first = lock.take()
    assert first is not None
    assert lock.take() is None
    lock.remove()
    second = lock.take()
    assert second is not None
    os.close(first)
    assert lock.take() is None
    os.close(second)


def test_a_server_is_told_apart_by_its_parent() -> None:
    ours = ServerIdentity.read()
    assert ours == ServerIdentity.read()
    assert ours.parent == os.getppid()
    assert ours.digest("ocr") == ServerIdentity.read().digest("ocr") != ours.digest("tts")
    assert ours.digest("ocr") != ours._replace(start="1").digest("ocr")
    if sys.platform == "linux":
        assert int(ours.start) > 0


# The directory


def test_the_directory_is_that_of_the_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert host_directory() == tmp_path / "aqueduct"
    assert (tmp_path / "aqueduct").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("runtime", ["", "relative", "/nowhere", "open"])
def test_without_one_it_is_beside_temporary_files(
    runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that root has started and that has changed its user has the variable of root."""
    if runtime == "open":
        runtime = str(tmp_path / "open")
        Path(runtime).mkdir()
        Path(runtime).chmod(0o755)
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert host_directory() == tmp_path / f"aqueduct-{os.geteuid()}" == host_directory()


def test_without_any_the_error_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose file system is read-only."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("tempfile._candidate_tempdir_list", lambda: ["/proc"])
    with pytest.raises(StartError, match="set XDG_RUNTIME_DIR to one of mode 0700"):
        host_directory()


def make_open(directory: Path) -> None:
    directory.mkdir()
    directory.chmod(0o750)


def make_foreign(directory: Path) -> None:
    directory.mkdir(0o700)
    os.chown(directory, 65534, 65534)


def make_link(directory: Path) -> None:
    target = directory.with_name("target")
    target.mkdir(0o700)
    directory.symlink_to(target)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (make_open, "has mode 0750: a process that puts a socket there could run code in this one"),
        (Path.touch, "is no directory"),
        (make_link, "is a symbolic link: remove it"),
        pytest.param(
            make_foreign, "belongs to user 65534", marks=pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
        ),
    ],
)
def test_a_directory_that_others_may_use_is_refused(
    make: Callable[[Path], None], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    make(tmp_path / "aqueduct")
    with pytest.raises(StartError, match=text):
        host_directory()


def test_a_directory_with_further_bits_is_accepted(tmp_path: Path) -> None:
    """New directories in a volume of Kubernetes with an fsGroup have the bit setgid."""
    directory = tmp_path / "ocr"
    directory.mkdir()
    directory.chmod(0o2700)
    check_directory(directory)


@pytest.mark.parametrize("path", ["ocr.sock", "", "/run/ocr/", "/run/\0/ocr.sock", "/" + MAX_PATH * "x"])
def test_a_path_that_cannot_be_that_of_a_socket_is_refused(path: str) -> None:
    with pytest.raises(ConfigurationError):
        check_path(path)


def test_the_longest_path_is_accepted_by_the_system(tmp_path: Path) -> None:
    path = str(tmp_path) + "/" + "x" * (MAX_PATH - len(str(tmp_path)) - 1)
    check_path(path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)


# A pipeline that others start


@contextlib.contextmanager
def served(directory: Path, path: Path) -> Iterator[int]:
    """Run a pipeline process that was not started by an API process."""
    lock = os.open(directory / "lock", os.O_CREAT | os.O_RDWR)
    with launcher(directory)(str(path), lock) as process:
        os.close(lock)
        try:
            yield process.pid
        finally:
            process.kill()


def test_a_pipeline_that_comes_late_is_waited_for(host: Host, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its directory need not exist yet: the containers of a pod start at the same time."""
    path = tmp_path / "run" / "ocr.sock"
    rendezvous = SocketRendezvous(HELLO, str(path), STEPS)
    with ThreadPoolExecutor(1) as pool:
        connected = pool.submit(connect, rendezvous)
        assert not wait_until(connected.done, 0.1)
        path.parent.mkdir(0o700)
        with served(tmp_path, path) as pid:
            assert connected.result(DEADLINE) == pid
    assert len(host.started()) == 1


def test_a_pipeline_that_does_not_come_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rendezvous = SocketRendezvous(HELLO, str(tmp_path / "ocr.sock"), STEPS, IMPATIENT)
    with pytest.raises(StartTimeout, match=r"no process listens at \S*/ocr\.sock; `fastapi-aqueduct serve` runs one"):
        connect(rendezvous, 0.3)
    (record,) = caplog.records
    assert "flow ocr waits for its pipeline process: no process listens" in record.message


def test_a_pipeline_of_other_steps_is_refused(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "run" / "ocr.sock"
    path.parent.mkdir(0o700)
    rendezvous = SocketRendezvous(HELLO, str(path), ("detect", "classify"))
    with served(tmp_path, path), pytest.raises(StartError, match="detect, read, and this process declares detect, cl"):
        connect(rendezvous)


def test_a_directory_that_others_may_use_is_not_connected_to(tmp_path: Path) -> None:
    path = tmp_path / "run" / "ocr.sock"
    make_open(path.parent)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(0)
        with pytest.raises(StartError, match="has mode 0750"):
            connect(SocketRendezvous(HELLO, str(path), STEPS))
        with pytest.raises(BlockingIOError):
            listener.accept()
