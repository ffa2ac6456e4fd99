"""What is fuzzed; the first byte of an input says which, the rest is for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace

from fastapi.exceptions import RequestValidationError
from starlette.requests import Request

from fastapi_aqueduct.asgi.body.head import judge_head
from fastapi_aqueduct.asgi.body.limits import BodyRules
from fastapi_aqueduct.asgi.body.parts import UploadPart
from fastapi_aqueduct.asgi.errors import BodyError
from fastapi_aqueduct.asgi.server_timing import server_timing
from fastapi_aqueduct.engine.wire.frames import (
    FrameReader,
    Kind,
    ProtocolError,
    pack,
    pack_batches,
    unpack_batches,
    unpack_offsets,
)
from fastapi_aqueduct.reports import StepMetrics

from ..asgi.test_edge_multipart import ours, outcome, starlettes
from .application import UploadTarget
from .attempt import Attempt, pieces
from .streaming import StreamTarget

PARTS = {"image": UploadPart("image", True, False, (), None)}

Target = Callable[[bytes], int | None]
"""Takes an input; an exception is a finding. Returns the status of an answer, if there was one."""


@contextlib.contextmanager
def all_targets() -> Iterator[Target]:
    """Give the one that takes any input."""
    loop = asyncio.new_event_loop()
    with contextlib.closing(loop), UploadTarget(loop) as upload:
        targets: dict[bytes, Target] = {
            b"R": upload.call,
            b"W": upload.serve("httptools"),
            b"V": upload.serve("h11"),
            b"H": headers,
            b"M": multipart,
            b"F": frames,
            b"S": StreamTarget(loop).receive,
            b"T": timing,
        }

        def run(data: bytes) -> int | None:
            target = targets.get(data[:1])
            return None if target is None else target(data[1:])

        yield run


def headers(data: bytes) -> None:
    """Judge a body by its headers alone."""
    attempt = Attempt.read(data)
    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": attempt.headers}
    any_body = BodyRules(wait=float)
    some = replace(any_body, media_types=("image/*", "text/plain"), accept_gzip=True, max_body_size=9)
    for rules in (any_body, some):
        with contextlib.suppress(BodyError, RequestValidationError):
            judge_head(Request(scope), PARTS, rules)


def multipart(data: bytes) -> None:
    """Read a form whose boundary is b, in pieces; Starlette's parser says what is valid."""
    sizes, _, body = data.partition(b"\n")
    body = b"--b\r\n" + body
    cuts = [len(piece) for piece in pieces(body, sizes)][:-1]
    found, theirs = outcome(ours, body, b"b", cuts, False), outcome(starlettes, body, b"b", [])
    assert (found is None) == (theirs is None), (found, theirs)
    if found is not None and theirs is not None:
        assert [part[0] for part in found] == [part[0] for part in theirs], (found, theirs)
        files = [(name, content) for name, filename, _, content in found if filename is not None]
        assert files == [(name, content) for name, filename, _, content in theirs if filename is not None]
    assert found == outcome(ours, body, b"b", [], False)


def frames(data: bytes) -> None:
    """Read what a worker that cannot be trusted sends: frames come out, or the protocol is broken."""
    sizes, _, stream = data.partition(b"\n")
    reader = FrameReader()
    received: list[tuple[Kind, bytes]] = []
    with contextlib.suppress(ProtocolError):
        for piece in pieces(stream, sizes):
            received += reader.feed(piece)
    for kind, payload in received:
        assert pack(kind, payload) in stream
        _payload(payload)
    _payload(stream)


def _payload(payload: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        list(unpack_offsets(payload))
    with contextlib.suppress(ProtocolError):
        batches = unpack_batches(payload)
        again = pack_batches(batches)
        assert repr(unpack_batches(again)) == repr(batches)  # equal, with numbers that are none equal as well


def timing(data: bytes) -> None:
    """Write a header with names that a user gave."""
    name = data.decode(errors="replace")
    text = server_timing(None, [StepMetrics(name, 0.0, 0.0, 1)], 1.0).decode("ascii")
    assert text.isprintable() and text.count(",") == 2
