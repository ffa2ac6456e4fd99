"""An application that takes uploads of every kind, and says what it received."""

import asyncio
import gc
import json
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Annotated, Any, Literal, Self

from fastapi import FastAPI
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from fastapi_aqueduct import Flow, FlowTask, Upload, flow_endpoint

from ..asgi.edge_handlers import Pass
from ..asgi.support import taken
from .attempt import Answer, Attempt
from .tasks import One, Two
from .wire import PARSER, Wire

LIMIT = 5000
"""Bytes that a body may have."""

UPLOADS = {"o": ("image",), "p": ("image",), "t": ("image", "mask"), "i": ("image",)}
"""The endpoints, and the uploads that each wants."""

REFUSALS = {400, 413, 415, 422}

Send = Callable[[Attempt], Awaitable[tuple[Attempt, Answer | None]]]
"""Makes a request, and returns what was sent and answered."""


class UploadTarget:
    """Sends requests to an application whose flow runs, and judges the answers.

    Args:
        loop: Where the flow is to run; it does while this is open as a context.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._flow = Flow(Pass(), memory_limit=64 << 20)
        self._app = make_app(self._flow)

    def __enter__(self) -> Self:
        self._loop.run_until_complete(self._flow.start_async())
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._loop.run_until_complete(self._flow.stop())

    def call(self, data: bytes) -> int | None:
        """Call the application with the request that the data describes, and return the status of the answer."""
        return self._run(data, self._call)

    def serve(self, http: Literal["httptools", "h11"]) -> Callable[[bytes], int | None]:
        """Return what sends the request to a server of the application, and does the same."""
        wire = Wire(self._app, http)
        return lambda data: self._run(data, wire.send)

    async def _call(self, attempt: Attempt) -> tuple[Attempt, Answer]:
        return attempt, await attempt.send(self._app)

    def _run(self, data: bytes, send: Send) -> int | None:
        attempt = Attempt.read(data)
        if attempt.endpoint not in UPLOADS:
            return None
        return self._loop.run_until_complete(self._try(attempt, send))

    async def _try(self, attempt: Attempt, send: Send) -> int | None:
        sent, answer = await send(attempt)
        if answer is not None and answer.body != PARSER:
            await judge(sent, answer)
        if taken(self._flow):
            gc.collect()  # the traceback of a refusal may hold a view until then
        statistics = self._flow.statistics()
        assert taken(self._flow) == 0 and statistics.arena.receiving == 0, statistics.arena
        assert statistics.in_flight == 0, statistics
        return None if answer is None else answer.status


def make_app(flow: Flow) -> FastAPI:
    app = FastAPI()

    def received(task: One | Two) -> dict[str, Any]:
        files = {name: summary(view) for name, view in task.files.items()}
        return {"files": files, "info": task.infos[0], "title": getattr(task, "title", "")}

    @app.post("/o")
    async def one(task: Annotated[One, FlowTask(flow, accept_gzip=True, max_body_size=LIMIT)]) -> Any:
        return received(task)

    @app.post("/p")
    @flow_endpoint(flow, max_body_size=LIMIT)
    async def processed(task: One) -> Any:
        return received(task)

    @app.post("/t")
    async def two(task: Annotated[Two, FlowTask(flow, accept_gzip=True, max_body_size=LIMIT)]) -> Any:
        return received(task)

    @app.post("/i")
    async def image(
        task: Annotated[One, FlowTask(flow, media_type=("image/*", "text/plain"), max_body_size=LIMIT)],
    ) -> Any:
        return received(task)

    return app


async def judge(attempt: Attempt, answer: Answer) -> None:
    """Check that the answer is one that this request may get."""
    assert answer.status in REFUSALS | {200} or (attempt.leaves and answer.status == 499), answer
    content = json.loads(answer.body)
    if answer.status != 200:
        assert content["detail"], answer
        return
    assert not attempt.leaves
    body = attempt.body
    if (attempt.header(b"content-encoding") or b"").strip().lower() in (b"gzip", b"x-gzip"):
        body = inflated(body)
    assert len(body) <= LIMIT
    length = attempt.header(b"content-length")
    assert length is None or int(length) == len(attempt.body)
    content_type = attempt.header(b"content-type") or b""
    if b"charset" not in content_type.lower():  # Starlette decodes names as it says, browsers never say it
        await judge_files(content["files"], UPLOADS[attempt.endpoint], content_type, body)


async def judge_files(files: dict[str, list[int]], names: tuple[str, ...], content_type: bytes, body: bytes) -> None:
    """Check what an endpoint has received that wants uploads of these names; Starlette says what a form contains."""
    if not is_form(content_type):
        assert files == {"image": summary(body)}
        return
    parts = await starlettes_parts(content_type, body)
    assert parts is not None, "a form that Starlette refuses was taken"
    uploads = {name: part for name, part in parts if name in names and part}
    assert files.keys() == uploads.keys()
    for name, part in uploads.items():
        if isinstance(part, bytes):
            assert files[name] == summary(part), name
        else:  # what has no filename is text for Starlette, read as one or the other
            assert files[name] in (summary(part.encode()), summary(part.encode("latin-1", "replace"))), name


def summary(data: bytes | Upload) -> list[int]:
    """Return what stands for the content of a file."""
    return [len(data), zlib.crc32(data)]


def inflated(data: bytes) -> bytes:
    """Decompress one gzip file behind another."""
    found = b""
    while data:
        stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        found += stream.decompress(data)
        assert stream.eof
        data = stream.unused_data
    return found


def is_form(content_type: bytes) -> bool:
    """Tell whether a body is a multipart form."""
    return parse_options_header(content_type)[0] == b"multipart/form-data"


async def starlettes_parts(content_type: bytes, body: bytes) -> list[tuple[str, str | bytes]] | None:
    """Return the parts of a form; None when Starlette refuses it."""

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    parser = MultiPartParser(Headers({"content-type": content_type.decode("latin-1")}), stream())
    try:
        form = await parser.parse()
        return [
            (name, await part.read() if isinstance(part, UploadFile) else part) for name, part in form.multi_items()
        ]
    except MultiPartException:
        return None
    finally:
        # Also those of parts that were cut off, which Starlette leaves to the garbage collector.
        for file in parser._files_to_close_on_error:
            file.close()
