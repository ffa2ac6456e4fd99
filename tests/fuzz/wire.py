"""Sends an `Attempt` to uvicorn over a connection, which sees the body before the application does."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
from typing import Any, Literal

import uvicorn
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from .attempt import DEADLINE, Answer, Attempt

PARSER = b"Invalid HTTP request received."
"""The answer of uvicorn itself, to what is no HTTP."""

_FRAMING = (b"connection", b"expect", b"host", b"transfer-encoding", b"upgrade")
_TOKEN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_")


class Wire:
    """A uvicorn server with one connection at a time.

    Args:
        app: What it serves.
        http: Its parser.
    """

    def __init__(self, app: ASGIApp, http: Literal["httptools", "h11"]) -> None:
        self._config = uvicorn.Config(app, http=http, ws="none", lifespan="off", log_config=None, access_log=False)
        self._config.load()
        self._state = ServerState()

    async def send(self, attempt: Attempt) -> tuple[Attempt, Answer | None]:
        """Send what HTTP allows of a request.

        Returns:
            What was sent, and the answer; None when the client went away before.
        """
        attempt = _speakable(attempt)
        ours, theirs = socket.socketpair()
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(DEADLINE):
            await loop.connect_accepted_socket(self._protocol, theirs)
            with ours:
                ours.setblocking(False)
                # Who is refused early finds the connection closed, with the answer in it.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    for piece in _messages(attempt):
                        await loop.sock_sendall(ours, piece)
                        await asyncio.sleep(0)  # else they come as one
                content = b"" if attempt.leaves else await _read(ours)
            while self._state.tasks or self._state.connections:
                await asyncio.sleep(0)
        if not content:
            assert attempt.leaves, "no answer"
            return attempt, None
        return attempt, _answer(content)

    def _protocol(self) -> asyncio.Protocol:
        kind: Any = self._config.http_protocol_class
        protocol: asyncio.Protocol = kind(config=self._config, server_state=self._state, app_state={})
        return protocol


def _speakable(attempt: Attempt) -> Attempt:
    headers = [
        (name, bytes(byte for byte in value if byte >= 32 and byte != 127))
        for name, value in attempt.headers
        if name not in (*_FRAMING, b"content-length") and name and _TOKEN.issuperset(name)
    ]
    length = attempt.header(b"content-length") or b""
    leaves = attempt.leaves
    if length.isdigit() and len(length) < 7:
        headers.append((b"content-length", length))
        # A server waits for what was announced, and takes what is beyond it for another request.
        leaves = leaves or int(length) != len(attempt.body)
    query = bytes(byte for byte in attempt.query if 32 < byte < 127 and byte != ord("#"))
    return dataclasses.replace(attempt, headers=headers, query=query, leaves=leaves)


def _messages(attempt: Attempt) -> list[bytes]:
    is_chunked = attempt.header(b"content-length") is None
    head = b"POST /%s?%s HTTP/1.1\r\nhost: t\r\nconnection: close\r\n" % (attempt.endpoint.encode(), attempt.query)
    head += b"".join(b"%s: %s\r\n" % header for header in attempt.headers)
    if not is_chunked:
        return [head + b"\r\n", *attempt.chunks]
    end = [] if attempt.leaves else [b"0\r\n\r\n"]
    chunks = [b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in attempt.chunks if chunk]
    return [head + b"transfer-encoding: chunked\r\n\r\n", *chunks, *end]


async def _read(connection: socket.socket) -> bytes:
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while data := await asyncio.get_running_loop().sock_recv(connection, 1 << 16):
            found += data
    return found


def _answer(content: bytes) -> Answer:
    head, _, body = content.partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    headers = dict(line.split(b": ", 1) for line in lines)
    if headers.get(b"transfer-encoding") == b"chunked":  # h11, when the length is not known
        body = body.partition(b"\r\n")[2].rpartition(b"\r\n0\r\n")[0]
    return Answer(int(status.split(b" ")[1]), headers, body)
