"""The first messages of a connection between an API process and the pipeline process.

The API process sends a hello, with a pidfd of itself: a `Hello`. The pipeline process answers when it has started or
has failed: with a `Welcome` and descriptors, with the exception of its start, or with a refusal. A connection that ends
without an answer was accepted by the kernel for a process that is ending: try again. After the welcome the socket
speaks frames.

Each side checks the user of the other one before it reads anything: what follows is unpickled.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any, Self

from ...exceptions import AqueductError, StartError, StartTimeout
from ..memory.layout import Layout
from ..system.peer import open_own_pidfd, peer_user
from ..wire.channel import close_connection
from ..wire.failures import decode_error, encode_error

HELLO_TIMEOUT = 5.0
"""Seconds in which the hello of a connected API process must come."""

_SEND_TIMEOUT = 1.0
"""Seconds that an answer may wait for a receiver that does not read. All but large exceptions fit into the socket."""

_BUFFER_SIZE = 1 << 20
_MAX_HELLO = 1 << 16
_MAX_ANSWER = 1 << 28
_MAX_DESCRIPTORS = 8

_HEADER = struct.Struct("<4sBBI")  # magic, kind, descriptors, bytes that follow
_MAGIC = b"AQD1"


class _Kind(IntEnum):
    HELLO = 1
    WELCOME = 2
    FAILED = 3
    REFUSED = 4


_KINDS = {int(kind): kind for kind in _Kind}
_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class HandshakeError(AqueductError):
    """What the other side of a connection has sent, or is, cannot be accepted; the message says why."""


class NoAnswer(AqueductError):
    """The connection ended without an answer: its other side was ending. Connect again."""


@dataclass(frozen=True)
class Hello:
    """What an API process says of itself.

    Attributes:
        version: Version of this package.
        flow: Name of the flow.
        fingerprint: Of the flow's code and options; empty: any.
        pid: Its process id.
    """

    version: str
    flow: str
    fingerprint: str
    pid: int

    def mismatch(self, expected: Hello) -> str | None:
        """Return why the sender cannot use a pipeline; None if it can.

        Args:
            expected: The hello that the pipeline process would send itself.
        """
        if self.version != expected.version:
            return (
                f"it runs fastapi_aqueduct {expected.version}, and the API process {self.pid} runs {self.version}: "
                "restart the one with the older version"
            )
        if self.flow != expected.flow:
            return f"it runs flow {expected.flow}, and the API process {self.pid} asks for flow {self.flow}"
        if self.fingerprint and expected.fingerprint and self.fingerprint != expected.fingerprint:
            return (
                f"the API process {self.pid} declares flow {self.flow} differently: its code or options have changed "
                "since the pipeline was started; restart the older one"
            )
        return None


@dataclass(frozen=True)
class Welcome:
    """What an API process must know of the pipeline.

    Attributes:
        layout: The division of the shared memory.
        region: The region of the API process.
        blocks: Blocks in that region that are in use, by offset, with their size.
        steps: Names of the steps.
        pid: Process id of the pipeline process.
        settings: What else both sides must agree on.
    """

    layout: Layout
    region: int
    blocks: dict[int, int]
    steps: tuple[str, ...]
    pid: int
    settings: dict[str, Any]


@dataclass(frozen=True)
class ServerEnd:
    """The pipeline process's end of a connection.

    Attributes:
        sock: The socket.
        pidfd: Is readable when the API process has ended; -1 where the system has no such descriptor.
        hello: What the API process has said.
    """

    sock: socket.socket
    pidfd: int
    hello: Hello

    def close(self) -> None:
        """Close socket and descriptor."""
        close_connection(self.sock)
        if self.pidfd >= 0:
            os.close(self.pidfd)


@dataclass(frozen=True)
class ClientEnd:
    """The API process's end of a connection.

    Attributes:
        sock: The socket.
        pidfd: Is readable when the pipeline process has ended; -1 where the system has no such descriptor.
        memory_fd: The shared memory.
        board_fd: The board on which the pipeline process writes its status.
        welcome: What the pipeline process has said.
    """

    sock: socket.socket
    pidfd: int
    memory_fd: int
    board_fd: int
    welcome: Welcome

    def close(self) -> None:
        """Close socket and descriptors."""
        close_connection(self.sock)
        for fd in (self.pidfd, self.memory_fd, self.board_fd):
            if fd >= 0:
                os.close(fd)


def greet(sock: socket.socket, hello: Hello, deadline: float) -> ClientEnd:
    """Send the hello and wait for the answer, which comes when the pipeline has started or has failed.

    ``sock.shutdown`` in another thread ends the wait with `NoAnswer`.

    Args:
        sock: A connected socket; it is closed if there is no welcome.
        hello: The hello.
        deadline: When the answer must be there, on the clock of `time.monotonic`.

    Raises:
        NoAnswer: The connection ended without an answer.
        HandshakeError: The other side is of another user, or sends what is no answer, or no descriptor is left for it.
        StartError: The start of the pipeline failed, or it refuses this API process.
        StartTimeout: There was no answer in time.
        OSError: No descriptor is left.
    """
    with _Undo(sock) as undo:
        _check_user(sock, "the pipeline process")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_SIZE)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may have refused before it has read
            _send_with_pidfd(sock, _Kind.HELLO, json.dumps(asdict(hello)).encode(), ())
        try:
            kind, body, fds = _receive(sock, _MAX_ANSWER, deadline, undo)
        except TimeoutError:
            raise StartTimeout(f"the pipeline process of flow {hello.flow} was not ready in time") from None
        if kind is _Kind.REFUSED:
            raise StartError(f"the pipeline process refuses flow {hello.flow}: {body.decode(errors='replace')}")
        if kind is _Kind.FAILED:
            raise decode_error(body, f"the start of flow {hello.flow} in the pipeline process")
        if kind is not _Kind.WELCOME or len(fds) not in (2, 3):
            raise HandshakeError(f"the pipeline process of flow {hello.flow} sends what is no answer to a hello")
        end = ClientEnd(sock, fds[2] if len(fds) == 3 else -1, fds[0], fds[1], _read_welcome(body))
        undo.keep()
    return end


def receive_hello(sock: socket.socket, timeout: float = HELLO_TIMEOUT) -> ServerEnd:
    """Check the user of a connected process and read its hello; blocks.

    Args:
        sock: An accepted socket; it is closed if there is no hello.
        timeout: Seconds in which the hello must come.

    Raises:
        HandshakeError: The other side is of another user, is silent, or sends what is no hello.
        NoAnswer: It has left.
        OSError: No descriptor is left.
    """
    with _Undo(sock) as undo:
        _check_user(sock, "a process that has connected")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_SIZE)
        try:
            kind, body, fds = _receive(sock, _MAX_HELLO, time.monotonic() + timeout, undo)
        except TimeoutError:
            raise HandshakeError(f"a process that has connected sent no hello within {timeout:g} s") from None
        if kind is not _Kind.HELLO or len(fds) > 1:
            raise HandshakeError("a process that has connected sends what is no hello")
        end = ServerEnd(sock, fds[0] if fds else -1, _read_hello(body))
        undo.keep()
    return end


def send_welcome(end: ServerEnd, welcome: Welcome, memory_fd: int, board_fd: int) -> None:
    """Answer with a welcome. The API process gets copies of the descriptors, and a pidfd of this process.

    Args:
        end: The connection.
        welcome: The welcome.
        memory_fd: The shared memory.
        board_fd: The board.

    Raises:
        OSError: The API process has left, or does not read; close the end.
    """
    _send_with_pidfd(end.sock, _Kind.WELCOME, pickle.dumps(welcome, 5), (memory_fd, board_fd))


def send_failure(end: ServerEnd, exception: BaseException) -> None:
    """Answer with the exception of a start that has failed, and close the end.

    Args:
        end: The connection.
        exception: The exception; the API process raises it.
    """
    _send_last(end, _Kind.FAILED, encode_error(exception))


def send_refusal(end: ServerEnd, text: str) -> None:
    """Refuse an API process, and close the end. A pipeline that stops does not refuse: it closes the end.

    Args:
        end: The connection.
        text: The reason, as the end of a sentence that begins with "the pipeline process refuses flow ocr: ".
    """
    _send_last(end, _Kind.REFUSED, text.encode())


class _Undo:
    """Closes a socket and the descriptors that have come over it when an exception ends the context."""

    def __init__(self, sock: socket.socket) -> None:
        self.fds: list[int] = []
        self._sock = sock
        self._is_kept = False

    def keep(self) -> None:
        self._is_kept = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if not self._is_kept:
            close_connection(self._sock)
            for fd in self.fds:
                os.close(fd)


def _check_user(sock: socket.socket, who: str) -> None:
    uid = peer_user(sock)
    if uid != os.geteuid():
        raise HandshakeError(
            f"{who} runs as user {uid} and this one as user {os.geteuid()}: each unpickles what the other sends, so "
            "both must run as the same user"
        )


def _read_hello(body: bytes) -> Hello:
    try:
        said = json.loads(body)
        # Other versions may say more or less; their version is what a refusal is about.
        version, flow, fingerprint = (str(said.get(name, "")) for name in ("version", "flow", "fingerprint"))
        return Hello(version, flow, fingerprint, int(said.get("pid", 0)))
    except (ValueError, TypeError, AttributeError):
        raise HandshakeError("a process that has connected sends a hello that cannot be read") from None


def _read_welcome(body: bytes) -> Welcome:
    try:
        welcome = pickle.loads(body)
    except Exception as exc:
        raise HandshakeError(f"the pipeline process sends a welcome that cannot be read: {exc}") from exc
    if not isinstance(welcome, Welcome):
        raise HandshakeError(f"the pipeline process sends a {type(welcome).__name__} in the place of a welcome")
    return welcome


def _send_with_pidfd(sock: socket.socket, kind: _Kind, body: bytes, fds: Sequence[int]) -> None:
    pidfd = open_own_pidfd()
    try:
        _send(sock, kind, body, (*fds, pidfd) if pidfd >= 0 else fds)
    finally:
        if pidfd >= 0:
            os.close(pidfd)


def _send_last(end: ServerEnd, kind: _Kind, body: bytes) -> None:
    with contextlib.suppress(OSError):  # it has left
        _send(end.sock, kind, body, ())
    end.close()


def _send(sock: socket.socket, kind: _Kind, body: bytes, fds: Sequence[int]) -> None:
    sock.settimeout(_SEND_TIMEOUT)
    header = _HEADER.pack(_MAGIC, kind, len(fds), len(body))
    data = header + body
    sent = socket.send_fds(sock, [data], fds) if fds else 0
    if sent < len(data):  # the receiver of a whole message may have left, and to send no more bytes would be an error
        sock.sendall(memoryview(data)[sent:])


def _receive(sock: socket.socket, most: int, deadline: float, undo: _Undo) -> tuple[_Kind, bytes, list[int]]:
    """Read one message and nothing of what follows it: after a welcome, those are frames."""

    def read_first(size: int) -> bytes:
        # Descriptors come with the first byte of the message that they were sent with.
        data, fds, flags, _ = socket.recv_fds(sock, size, _MAX_DESCRIPTORS, _CLOSE_ON_EXEC)
        undo.fds += fds
        for fd in fds:
            os.set_inheritable(fd, False)
        if flags & socket.MSG_CTRUNC:
            raise HandshakeError(
                "a message of a handshake came with more descriptors than this process may open: raise `ulimit -n`"
            )
        return data

    magic, kind, count, size = _HEADER.unpack(_read(sock, _HEADER.size, deadline, read_first))
    if magic != _MAGIC or kind not in _KINDS or size > most:
        raise HandshakeError("the bytes that arrive are no message of a handshake")
    body = _read(sock, size, deadline, sock.recv)
    if len(undo.fds) != count:
        raise HandshakeError(f"a message of a handshake came with {len(undo.fds)} of its {count} descriptors")
    return _KINDS[kind], body, undo.fds


def _read(sock: socket.socket, size: int, deadline: float, read: Callable[[int], bytes]) -> bytes:
    data = bytearray()
    while len(data) < size:
        sock.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            piece = read(min(size - len(data), _BUFFER_SIZE))
        except ConnectionError:
            raise NoAnswer("the connection ended within a handshake") from None
        if not piece:
            raise NoAnswer("the connection ended within a handshake")
        data += piece
        if time.monotonic() > deadline:
            raise TimeoutError
    return bytes(data)
