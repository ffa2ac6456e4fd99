"""The handshake between an API process and the pipeline process, over real sockets and with real processes."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from fastapi_aqueduct.engine.memory.layout import Layout
from fastapi_aqueduct.engine.shared.handshake import (
    HandshakeError,
    Hello,
    NoAnswer,
    ServerEnd,
    Welcome,
    greet,
    receive_hello,
    send_failure,
    send_refusal,
    send_welcome,
)
from fastapi_aqueduct.engine.system.peer import open_own_pidfd, peer_user
from fastapi_aqueduct.exceptions import StartError, StartTimeout

from ..support import DEADLINE, script_environment

linux = pytest.mark.skipif(sys.platform != "linux", reason="pidfds, and sockets without a name")
OTHER_USER = 65534
HELLO = Hello("1.2.3", "ocr", "f00", os.getpid())
WELCOME = Welcome(Layout(12, 1 << 20), 4, {64: 128}, ("detect", "read"), os.getpid(), {"trim": True})
HEADER = struct.Struct("<4sBBI")


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        yield listener


def connect(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(path))
    return sock


@contextmanager
def answering(path: Path, answer: Callable[[socket.socket], object]) -> Iterator[Future[object]]:
    """Accept one connection in a thread and do something with it."""
    with listening(path) as listener, ThreadPoolExecutor(1) as pool:
        yield pool.submit(lambda: answer(listener.accept()[0]))


def deadline(seconds: float = DEADLINE) -> float:
    return time.monotonic() + seconds


def is_readable(fd: int, timeout: float) -> bool:
    return bool(select.select([fd], [], [], timeout)[0])


def open_files(tmp_path: Path) -> tuple[int, int]:
    memory, board = (os.open(tmp_path / name, os.O_RDWR | os.O_CREAT) for name in ("memory", "board"))
    os.write(memory, b"memory")
    os.write(board, b"board")
    return memory, board


def test_both_sides_learn_what_they_need(tmp_path: Path) -> None:
    """Frames that follow the welcome at once stay in the socket, and no descriptor is inherited by a child."""
    memory, board = open_files(tmp_path)

    def welcome(sock: socket.socket) -> ServerEnd:
        end = receive_hello(sock)
        send_welcome(end, WELCOME, memory, board)
        end.sock.sendall(b"frames")
        return end

    with answering(tmp_path / "s", welcome) as served:
        with closing(greet(connect(tmp_path / "s"), HELLO, deadline())) as client:
            server = served.result(DEADLINE)
            assert isinstance(server, ServerEnd)
            assert server.hello == HELLO
            assert client.welcome == WELCOME
            assert os.pread(client.memory_fd, 100, 0) == b"memory"
            assert os.pread(client.board_fd, 100, 0) == b"board"
            assert client.sock.recv(100) == b"frames"
            received = [server.pidfd, client.pidfd, client.memory_fd, client.board_fd]
            assert not any(os.get_inheritable(fd) for fd in received if fd >= 0)
            assert server.sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) > 1 << 17
        server.close()
    os.close(memory)
    os.close(board)


CHILD = """
    import os, socket, sys, time
    from fastapi_aqueduct.engine.shared.handshake import *
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(sys.argv[1])
    end = greet(sock, Hello("1.2.3", "ocr", "", os.getpid()), time.monotonic() + 20)
    print("welcome", flush=True)
    sys.stdin.read()
"""


@linux
def test_each_side_sees_the_end_of_the_other_by_a_pidfd(tmp_path: Path) -> None:
    """The processes are no children of each other; the end of a socket may never be seen under uvloop."""
    memory, board = open_files(tmp_path)
    with listening(tmp_path / "s") as listener:
        script = "\n".join(line.strip() for line in CHILD.splitlines())
        with subprocess.Popen(
            [sys.executable, "-c", script, tmp_path / "s"],
            env=script_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as child:
            listener.settimeout(DEADLINE)
            with closing(receive_hello(listener.accept()[0])) as end:
                assert end.hello.pid == child.pid
                send_welcome(end, WELCOME, memory, board)
                assert child.stdout is not None
                assert child.stdout.readline() == b"welcome\n"
                assert not is_readable(end.pidfd, 0)
                child.send_signal(signal.SIGKILL)
                assert is_readable(end.pidfd, DEADLINE)
    os.close(memory)
    os.close(board)


def test_the_exception_of_the_start_is_raised_by_the_api_process(tmp_path: Path) -> None:
    failure = StartError("a worker of read in flow ocr failed", step="read", pid=17, exit_code=-9)
    failure.__cause__ = ValueError("no weights")
    with answering(tmp_path / "s", lambda sock: send_failure(receive_hello(sock), failure)) as served:
        with pytest.raises(StartError, match="a worker of read in flow ocr failed") as raised:
            greet(connect(tmp_path / "s"), HELLO, deadline())
        served.result(DEADLINE)
    assert (raised.value.step, raised.value.pid, raised.value.exit_code) == ("read", 17, -9)
    assert repr(raised.value.__cause__) == "ValueError('no weights')"


def test_a_refusal_says_why(tmp_path: Path) -> None:
    text = "all its 8 regions are taken"
    with answering(tmp_path / "s", lambda sock: send_refusal(receive_hello(sock), text)) as served:
        with pytest.raises(StartError, match="refuses flow ocr: all its 8 regions are taken"):
            greet(connect(tmp_path / "s"), HELLO, deadline())
        served.result(DEADLINE)


@pytest.mark.parametrize(
    ("hello", "text"),
    [
        (HELLO, None),
        (Hello("1.2.3", "ocr", "", 1), None),
        (Hello("1.2.4", "ocr", "f00", 7), "it runs fastapi_aqueduct 1.2.3, and the API process 7 runs 1.2.4"),
        (Hello("1.2.3", "tts", "f00", 7), "it runs flow ocr, and the API process 7 asks for flow tts"),
        (Hello("1.2.3", "ocr", "f01", 7), "the API process 7 declares flow ocr differently"),
    ],
)
def test_a_mismatch_is_put_into_words(hello: Hello, text: str | None) -> None:
    mismatch = hello.mismatch(HELLO)
    assert mismatch is None if text is None else text in str(mismatch)


def test_the_hello_of_another_version_can_be_read(tmp_path: Path) -> None:
    """Else it would not learn that its version is the matter."""
    body = b'{"version": "0.0.9", "flow": "ocr", "colour": "blue"}'
    with answering(tmp_path / "s", receive_hello) as served, connect(tmp_path / "s") as sock:
        sock.sendall(HEADER.pack(b"AQD1", 1, 0, len(body)) + body)
        end = served.result(DEADLINE)
    assert isinstance(end, ServerEnd)
    assert end.hello == Hello("0.0.9", "ocr", "", 0)
    assert end.pidfd == -1
    end.close()


LONG = HEADER.pack(b"AQD1", 1, 0, 100)


@pytest.mark.parametrize("sent", [b"", LONG[:5], LONG + b"{"], ids=["nothing", "half a header", "half a body"])
def test_a_silent_client_holds_up_the_pipeline_no_longer_than_its_timeout(sent: bytes, tmp_path: Path) -> None:
    with answering(tmp_path / "s", lambda sock: receive_hello(sock, 0.05)) as served, connect(tmp_path / "s") as sock:
        sock.sendall(sent)
        with pytest.raises(HandshakeError, match=r"sent no hello within 0\.05 s"):
            served.result(DEADLINE)
        assert sock.recv(1) == b""  # it is not kept open


def test_a_client_that_drips_has_no_more_time(tmp_path: Path) -> None:
    def drip(sock: socket.socket) -> None:
        with pytest.raises(OSError):
            while True:
                sock.sendall(b"A")
                select.select([], [], [], 0.01)

    with answering(tmp_path / "s", lambda sock: receive_hello(sock, 0.1)) as served, connect(tmp_path / "s") as sock:
        sock.sendall(HEADER.pack(b"AQD1", 1, 0, 60_000))
        drip(sock)
        with pytest.raises(HandshakeError, match="sent no hello"):
            served.result(DEADLINE)


GARBAGE = {
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "zeros": bytes(64),
    "long": HEADER.pack(b"AQD1", 1, 0, 1 << 31),
    "kind": HEADER.pack(b"AQD1", 99, 0, 2) + b"{}",
    "answer": HEADER.pack(b"AQD1", 2, 0, 2) + b"{}",
    "no json": HEADER.pack(b"AQD1", 1, 0, 2) + b"{{",
    "a list": HEADER.pack(b"AQD1", 1, 0, 2) + b"[]",
    "no number": HEADER.pack(b"AQD1", 1, 0, 12) + b'{"pid": "x"}',
    "no descriptor": HEADER.pack(b"AQD1", 1, 1, 2) + b"{}",
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_refused_by_the_pipeline(garbage: bytes, tmp_path: Path) -> None:
    with answering(tmp_path / "s", receive_hello) as served, connect(tmp_path / "s") as sock:
        sock.sendall(garbage)
        with pytest.raises(HandshakeError):
            served.result(DEADLINE)


@pytest.mark.parametrize("count", [2, 20])
def test_descriptors_that_come_with_garbage_are_closed(count: int, tmp_path: Path) -> None:
    """The check around each test finds those that are not."""
    with answering(tmp_path / "s", receive_hello) as served, connect(tmp_path / "s") as sock:
        with open(os.devnull) as null:
            socket.send_fds(sock, [HEADER.pack(b"AQD1", 1, count, 2) + b"{}"], [null.fileno()] * count)
        with pytest.raises((HandshakeError, OSError)):
            served.result(DEADLINE)


@pytest.mark.parametrize("garbage", [bytes(64), HEADER.pack(b"AQD1", 1, 0, 2) + b"{}"], ids=["zeros", "hello"])
def test_garbage_is_refused_by_the_api_process(garbage: bytes, tmp_path: Path) -> None:
    def answer(sock: socket.socket) -> ServerEnd:
        end = receive_hello(sock)
        end.sock.sendall(garbage)
        return end

    with answering(tmp_path / "s", answer) as served:
        with pytest.raises(HandshakeError):
            greet(connect(tmp_path / "s"), HELLO, deadline())
        end = served.result(DEADLINE)
    assert isinstance(end, ServerEnd)
    end.close()


@pytest.mark.parametrize("is_read", [False, True])
def test_the_end_of_the_connection_is_no_answer(is_read: bool, tmp_path: Path) -> None:
    """A pipeline process that is killed may have read the hello or not."""

    def leave(sock: socket.socket) -> None:
        (receive_hello(sock) if is_read else sock).close()

    with answering(tmp_path / "s", leave) as served:
        with pytest.raises(NoAnswer):
            greet(connect(tmp_path / "s"), HELLO, deadline())
        served.result(DEADLINE)


def test_a_connection_that_was_never_accepted_is_no_answer(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        with listening(tmp_path / "s"):
            greeted = pool.submit(greet, connect(tmp_path / "s"), HELLO, deadline())
        with pytest.raises(NoAnswer):
            greeted.result(DEADLINE)


def test_the_wait_for_the_answer_ends_at_the_deadline(tmp_path: Path) -> None:
    with listening(tmp_path / "s"), pytest.raises(StartTimeout, match="flow ocr was not ready in time"):
        greet(connect(tmp_path / "s"), HELLO, deadline(0.05))


def test_a_shutdown_in_another_thread_ends_the_wait(tmp_path: Path) -> None:
    with answering(tmp_path / "s", receive_hello) as served, ThreadPoolExecutor(1) as pool:
        sock = connect(tmp_path / "s")
        greeted = pool.submit(greet, sock, HELLO, deadline())
        end = served.result(DEADLINE)
        sock.shutdown(socket.SHUT_RDWR)
        with pytest.raises(NoAnswer):
            greeted.result(DEADLINE)
        assert isinstance(end, ServerEnd)
        end.close()


def test_a_receiver_that_does_not_read_holds_up_the_pipeline_for_a_second_only(tmp_path: Path) -> None:
    with answering(tmp_path / "s", receive_hello) as served, connect(tmp_path / "s") as sock:
        sock.sendall(HEADER.pack(b"AQD1", 1, 0, 2) + b"{}")
        end = served.result(DEADLINE)
        assert isinstance(end, ServerEnd)
        huge = Welcome(WELCOME.layout, 4, {}, (), 1, {"text": bytes(16 << 20)})
        with closing(end), open(os.devnull) as null, pytest.raises(TimeoutError):
            send_welcome(end, huge, null.fileno(), null.fileno())


def test_an_api_process_without_descriptors_says_so() -> None:
    ours, theirs = socket.socketpair()
    body = pickle.dumps(WELCOME)
    with theirs, open(os.devnull) as null:
        socket.send_fds(theirs, [HEADER.pack(b"AQD1", 2, 3, len(body)) + body], [null.fileno()] * 3)
        with one_descriptor_left(), pytest.raises(HandshakeError, match="raise `ulimit -n`"):
            greet(ours, HELLO, deadline())  # the one is for its own pidfd


@contextmanager
def one_descriptor_left() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/dev/fd"))) + 8, before[1]))
    fillers: list[int] = []
    try:
        with contextlib.suppress(OSError):
            while True:
                fillers.append(os.open(os.devnull, os.O_RDONLY))
        os.close(fillers.pop())
        yield
    finally:
        for fd in fillers:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_receiver_that_leaves_with_its_message_is_no_error() -> None:
    """It may be faster than the return of the call that sends."""
    ours, theirs = socket.socketpair()
    body = json.dumps(asdict(HELLO)).encode()
    ours.sendall(HEADER.pack(b"AQD1", 1, 0, len(body)) + body)
    with ours, closing(receive_hello(theirs)) as end, open(os.devnull) as null:

        def leave() -> None:
            ours.recv(1 << 16)
            ours.close()

        real = socket.send_fds
        with ThreadPoolExecutor(1) as pool, pytest.MonkeyPatch.context() as patch:

            def send_then_leave(*arguments: Any) -> int:
                sent = real(*arguments)
                pool.submit(leave).result(DEADLINE)
                return sent

            patch.setattr(socket, "send_fds", send_then_leave)
            send_welcome(end, WELCOME, null.fileno(), null.fileno())


def test_an_answer_is_unpickled_after_the_check_of_the_user(tmp_path: Path) -> None:
    """What cannot be unpickled leaves nothing open either."""
    body = pickle.dumps(WELCOME)[:-10]

    def answer(sock: socket.socket) -> ServerEnd:
        end = receive_hello(sock)
        with open(os.devnull) as null:
            socket.send_fds(end.sock, [HEADER.pack(b"AQD1", 2, 2, len(body)) + body], [null.fileno()] * 2)
        return end

    with answering(tmp_path / "s", answer) as served:
        with pytest.raises(HandshakeError, match="cannot be read"):
            greet(connect(tmp_path / "s"), HELLO, deadline())
        end = served.result(DEADLINE)
    assert isinstance(end, ServerEnd)
    end.close()


def test_the_user_of_the_other_side_is_seen(tmp_path: Path) -> None:
    with listening(tmp_path / "s") as listener, connect(tmp_path / "s") as sock, listener.accept()[0] as accepted:
        assert peer_user(sock) == peer_user(accepted) == os.geteuid()


other_user = pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs root, to be another user")


@contextmanager
def another_user(source: str, address: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program as another user, which could not reach a socket in the directory of a test."""
    script = f"import os, socket, sys\nos.setuid({OTHER_USER})\nsock = socket.socket(socket.AF_UNIX)\n{source}"
    command = [sys.executable, "-I", "-S", "-c", script, f"@{address}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


CONNECTS = """if True:
    sock.connect(sys.argv[1].replace("@", "\\0"))
    print(sock.recv(1), flush=True)
"""
LISTENS = """if True:
    sock.bind(sys.argv[1].replace("@", "\\0"))
    sock.listen()
    print("listens", flush=True)
    print(sock.accept()[0].recv(1), flush=True)
"""


@other_user
def test_the_pipeline_refuses_another_user_before_it_reads(tmp_path: Path) -> None:
    address = f"aqueduct-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{address}")
        listener.listen()
        listener.settimeout(DEADLINE)
        with another_user(CONNECTS, address) as process:
            with pytest.raises(HandshakeError, match=f"runs as user {OTHER_USER} and this one as user 0"):
                receive_hello(listener.accept()[0])
            assert process.stdout is not None
            assert process.stdout.readline() == b"b''\n"


@other_user
def test_an_api_process_refuses_a_pipeline_of_another_user_before_it_sends(tmp_path: Path) -> None:
    address = f"aqueduct-test-{os.getpid()}"
    with another_user(LISTENS, address) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"listens\n"
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(f"\0{address}")
        with pytest.raises(HandshakeError, match=f"the pipeline process runs as user {OTHER_USER}"):
            greet(sock, HELLO, deadline())
        assert process.stdout.readline() == b"b''\n"


@linux
def test_a_pidfd_of_this_process() -> None:
    fd = open_own_pidfd()
    assert not is_readable(fd, 0)
    os.close(fd)
