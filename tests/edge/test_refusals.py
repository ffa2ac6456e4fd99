"""Refusals have the same words with every client and every server, and the client can continue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from ..handlers import Gate
from ..support import DEADLINE, eventually
from .application import LIMIT, QUEUE_SIZE
from .clients import Body, Client, File, Form, Httpx
from .servers import EdgeService
from .test_bodies import PNG, pieces
from .ways import Way, every_way

TEXT = {"content-type": "text/plain"}
FORM = {"content-type": "multipart/form-data; boundary=b"}


class Asker:
    """Asks for what is refused.

    Args:
        way: From the client to the application.
        client: The client.
    """

    def __init__(self, way: Way, client: Client) -> None:
        self._way = way
        self._client = client

    async def ask(
        self, status: int, path: str, body: Body, headers: Mapping[str, str] | None = None
    ) -> httpx.Response | None:
        """Ask, see that it is refused with a status, and go on; None when the answer was lost."""
        try:
            response: httpx.Response | None = await self._client.post(path, body, headers)
        except httpx.TransportError:
            response = None
        await self.go_on()
        # 502 is what nginx makes of the loss.
        if response is None or response.status_code == 502:
            assert self._way.may_lose_refusals
            return None
        assert response.status_code == status
        return response

    async def go_on(self) -> None:
        """Use the connection once more, or a new one if the server has closed it."""
        try:
            response = await self._client.send("GET", "/ready")
        except httpx.TransportError:
            response = await self._client.send("GET", "/ready")
        assert response.status_code == 200


@pytest.fixture
def asker(way: Way, client: Client) -> Asker:
    return Asker(way, client)


@every_way
async def test_what_the_request_says(asker: Asker, client: Client) -> None:
    """Wrong types, parameters, fields, forms and methods; HEAD is none of those, and gets no body."""
    response = await asker.ask(415, "/image", b"x", TEXT)
    assert response is None or response.headers["accept"] == "image/*"
    response = await asker.ask(415, "/image", b"x", {**PNG, "content-encoding": "gzip"})
    assert response is None or response.headers["accept-encoding"] == "identity"
    await asker.ask(400, "/inspect", b"no form", FORM)
    form = Form((File("front", "f", b"x", "x/y"), File("back", "b", b"x", "x/y")))
    for path, body, place in (
        ("/inspect?factor=0", b"x", ["query", "factor"]),
        ("/inspect", b"", ["body", "image"]),
        ("/pair", form, ["body", "title"]),
    ):
        response = await asker.ask(422, path, body, PNG if isinstance(body, bytes) else None)
        assert response is None or [error["loc"] for error in response.json()["detail"]] == [place]
    response = await client.send("HEAD", "/pixels?size=100000")
    assert (response.status_code, response.headers["content-length"], response.content) == (200, "400000", b"")
    await asker.go_on()
    for method in ("OPTIONS", "DELETE", "GET"):
        response = await client.send(method, "/inspect")
        assert (response.status_code, response.headers["allow"]) == (405, "POST")
        await asker.go_on()


@every_way
async def test_too_large(asker: Asker) -> None:
    """By the Content-Length, or at the limit."""
    for body in (bytes(LIMIT + 1), pieces(bytes(LIMIT + 1))):
        await asker.ask(413, "/inspect", body, PNG)


@every_way
async def test_too_late(asker: Asker, tmp_path: Path) -> None:
    """The task has its time, and the client the answer."""
    response = await asker.ask(504, f"/late?gate={tmp_path}", b"x", PNG)
    Gate(tmp_path).open()
    assert response is not None


@every_way
async def test_too_busy(asker: Asker, service: EdgeService, tmp_path: Path) -> None:
    """The body is not read, and the answer has ``Retry-After``."""
    async with crowd(service, tmp_path):
        response = await asker.ask(503, "/inspect", bytes(LIMIT), PNG)
        assert response is None or int(response.headers["retry-after"]) >= 1


@asynccontextmanager
async def crowd(service: EdgeService, directory: Path) -> AsyncIterator[None]:
    """Hold the worker, and keep the queue behind it full."""
    # More patient than the client whom the test is about: with HTTP/2 granian loses one of 50 answers that are there
    # before the body (those of an application that does nothing, too), and that client waits for it until it tires.
    others = Httpx(service.url, directory, timeout=2 * DEADLINE)
    path = f"/wait?gate={directory}"
    refusals = 0

    async def insist() -> None:
        nonlocal refusals
        while (await others.send("GET", path)).status_code == 503:
            refusals += 1
            await asyncio.sleep(0.01)  # so that it leaves others a turn

    waiting = [asyncio.create_task(insist()) for _ in range(3 * QUEUE_SIZE)]
    try:
        await eventually(lambda: refusals and service.figures()["queued"] == QUEUE_SIZE)
        yield
    finally:
        Gate(directory).open()
        await asyncio.gather(*waiting)
        await others.close()
