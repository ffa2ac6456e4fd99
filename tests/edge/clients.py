"""The clients of the tests: each sends the same requests in the way that is its own."""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
from abc import ABC, abstractmethod
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import aiohttp
import httpx

from ..support import DEADLINE


@dataclass(frozen=True)
class File:
    """A file in a form."""

    name: str
    filename: str
    content: bytes
    media_type: str


@dataclass(frozen=True)
class Form:
    """A multipart form."""

    files: tuple[File, ...] = ()
    fields: tuple[tuple[str, str], ...] = ()


Body: TypeAlias = bytes | Form | AsyncIterator[bytes] | None
"""Bytes are sent with a Content-Length; what an iterator gives is sent as it comes, without one."""


class Client(ABC):
    """Sends requests to a service.

    Args:
        url: The service, or a proxy in front of it.
        directory: For files of the client.
    """

    def __init__(self, url: str, directory: Path) -> None:
        self._url = url
        self._directory = directory

    @abstractmethod
    def open(
        self, method: str, path: str, body: Body = None, headers: Mapping[str, str] | None = None
    ) -> AbstractAsyncContextManager[httpx.Response]:
        """Send a request and give its answer when the head has come; who leaves then does not take the rest."""

    async def send(
        self, method: str, path: str, body: Body = None, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """Send a request and take all of its answer."""
        async with self.open(method, path, body, headers) as response:
            await response.aread()
            return response

    async def post(self, path: str, body: Body, headers: Mapping[str, str] | None = None) -> httpx.Response:
        """Send a POST request."""
        return await self.send("POST", path, body, headers)

    @abstractmethod
    async def close(self) -> None:
        """Close all connections."""


class Httpx(Client):
    """httpx, with HTTP/1.1.

    Args:
        url: As of every client.
        directory: As of every client.
        timeout: Seconds that it waits for an answer.
    """

    is_http2 = False

    def __init__(self, url: str, directory: Path, timeout: float = DEADLINE) -> None:
        super().__init__(url, directory)
        # Without TLS it takes HTTP/2 for granted when that is all it may speak.
        self._client = httpx.AsyncClient(
            base_url=url, timeout=timeout, http1=not self.is_http2, http2=self.is_http2, verify=False
        )

    @asynccontextmanager
    async def open(
        self, method: str, path: str, body: Body = None, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[httpx.Response]:
        if isinstance(body, Form):
            files = [(file.name, (file.filename, file.content, file.media_type)) for file in body.files]
            data: dict[str, list[str]] = {}
            for name, value in body.fields:
                data.setdefault(name, []).append(value)
            request = self._client.build_request(method, path, files=files, data=data, headers=headers)
        else:
            request = self._client.build_request(method, path, content=body, headers=headers)
        response = await self._client.send(request, stream=True)
        try:
            yield response
        finally:
            await response.aclose()

    async def close(self) -> None:
        await self._client.aclose()


class Httpx2(Httpx):
    """httpx, with HTTP/2."""

    is_http2 = True


class Aiohttp(Client):
    """aiohttp."""

    def __init__(self, url: str, directory: Path) -> None:
        super().__init__(url, directory)
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(DEADLINE))

    @asynccontextmanager
    async def open(
        self, method: str, path: str, body: Body = None, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[httpx.Response]:
        data = _form_data(body) if isinstance(body, Form) else io.BytesIO(body) if isinstance(body, bytes) else body
        try:
            async with self._session.request(method, self._url + path, data=data, headers=headers) as response:
                found = list(response.headers.items())
                yield httpx.Response(response.status, headers=found, content=response.content.iter_any())
        except aiohttp.ClientError as exc:
            raise httpx.TransportError(str(exc)) from exc

    async def close(self) -> None:
        await self._session.close()


def _form_data(form: Form) -> aiohttp.FormData:
    data = aiohttp.FormData(default_to_multipart=True)
    for name, value in form.fields:
        data.add_field(name, value)
    for file in form.files:
        data.add_field(file.name, io.BytesIO(file.content), filename=file.filename, content_type=file.media_type)
    return data


class Curl(Client):
    """curl, with HTTP/1.1: a process for each request."""

    protocol = "--http1.1"

    def __init__(self, url: str, directory: Path) -> None:
        super().__init__(url, directory)
        self._numbers = itertools.count()

    @asynccontextmanager
    async def open(
        self, method: str, path: str, body: Body = None, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[httpx.Response]:
        command = ["curl", "--silent", "--show-error", "--include", "--no-buffer", self.protocol]
        # It would wait for the body of an answer that has none.
        command += ["--head"] if method == "HEAD" else ["--request", method]
        for name, value in (headers or {}).items():
            command += ["--header", f"{name}: {value}"]
        command += [*self._body_options(body), self._url + path]
        process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=PIPE)
        feed = asyncio.create_task(_feed(process, body))
        try:
            yield await _read_head(process)
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            feed.cancel()
            await asyncio.gather(feed, process.communicate(), return_exceptions=True)

    async def close(self) -> None:
        """There is nothing to close: a process ends with its request."""

    def _body_options(self, body: Body) -> list[str]:
        if body is None:
            return []
        if isinstance(body, bytes):
            return ["--data-binary", "@-"]
        if not isinstance(body, Form):
            return ["--upload-file", "-"]
        options: list[str] = []
        for name, value in body.fields:
            options += ["--form-string", f"{name}={value}"]
        for file in body.files:
            path = self._directory / f"part-{next(self._numbers)}"
            path.write_bytes(file.content)
            options += ["--form", f'{file.name}=@{path};filename="{file.filename}";type={file.media_type}']
        return options


class Curl2(Curl):
    """curl, with HTTP/2."""

    protocol = "--http2-prior-knowledge"


async def _feed(process: Process, body: Body) -> None:
    stdin = process.stdin
    assert stdin is not None
    # It may have its answer, and be gone, before it has taken all.
    with contextlib.suppress(ConnectionError):
        if isinstance(body, bytes):
            stdin.write(body)
        elif body is not None and not isinstance(body, Form):
            async for piece in body:
                stdin.write(piece)
                await stdin.drain()
        await stdin.drain()
        stdin.close()
        await stdin.wait_closed()


async def _read_head(process: Process) -> httpx.Response:
    assert process.stdout is not None and process.stderr is not None
    status = 100
    while status < 200:
        try:
            head = await asyncio.wait_for(process.stdout.readuntil(b"\r\n\r\n"), DEADLINE)
        except asyncio.IncompleteReadError as exc:
            raise httpx.TransportError((await process.stderr.read()).decode()) from exc
        first, *lines = head.decode("latin-1").strip().split("\r\n")
        status = int(first.split()[1])
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    return httpx.Response(status, headers=headers, content=_read_body(process))


async def _read_body(process: Process) -> AsyncIterator[bytes]:
    assert process.stdout is not None and process.stderr is not None
    while piece := await process.stdout.read(1 << 20):
        yield piece
    if await process.wait():
        raise httpx.TransportError((await process.stderr.read()).decode())


CLIENTS: dict[str, type[Client]] = {
    "httpx": Httpx,
    "httpx-http2": Httpx2,
    "aiohttp": Aiohttp,
    "curl": Curl,
    "curl-http2": Curl2,
}
"""All of them by name."""
