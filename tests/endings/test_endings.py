"""However a request ends, its shared memory is free when it has ended, and not when garbage is collected next."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import httpx
import pytest

from fastapi_aqueduct.engine.timing import DEFAULT_TIMING

from ..asgi.service import Service, launched
from ..edge.servers import START_DEADLINE
from ..edge.wire import Connection1
from ..handlers import Gate
from ..support import DEADLINE, eventually, wait_until
from .application import KINDS

BODY = bytes(100_000)
SOON = DEFAULT_TIMING.idle_time / 2
"""Seconds in which nothing may be left: sooner than workers collect garbage because the flow is idle."""

LENGTH = {"content_length": str(len(BODY))}

SERVERS = {
    "uvicorn": ["uvicorn", "tests.endings.application:app", "--port={port}"],
    "hypercorn": ["hypercorn", "tests.endings.application:app", "--bind=127.0.0.1:{port}", "--workers=0"],
    "granian": ["granian", "tests.endings.application:app", "--interface=asgi", "--port={port}"],
}

STREAMED = ("short", "long", "plain", "streamed", "dependent")
"""Kinds of endpoint whose body goes straight into shared memory."""

MADE = ("short", "long", "streamed", "dependent", "own")
"""Kinds of endpoint that FastAPI knows."""


class Endpoint:
    """An endpoint of one kind, of one service.

    Args:
        service: The service.
        kind: The kind of endpoint.
        directory: Where gates may be.
    """

    def __init__(self, service: Service, kind: str, directory: Path) -> None:
        self._service = service
        self.kind = kind
        self.directory = directory
        self.url = service.url

    def path(self, fate: str = "answer", **query: object) -> str:
        """Write where a task with a fate is asked for."""
        return f"/{self.kind}?{urlencode({'fate': fate, **query})}"

    def held(self, name: str) -> tuple[str, Gate]:
        """Write where a task is asked for that is held at a gate of its own, and return the gate."""
        return self.path(gate=self.directory, name=name), Gate(self.directory, name)

    async def post(self, path: str, headers: dict[str, str] | None = None, **options: object) -> int:
        """Upload a body and return the status; 0 when the server has closed the connection without one."""
        async with httpx.AsyncClient(base_url=self.url, timeout=DEADLINE, verify=False) as client:
            try:
                response = await client.post(path, headers=headers, **({"content": BODY} | options))  # type: ignore[arg-type]
            except httpx.TransportError:
                return 0
            return response.status_code

    def ask(self, method: str, path: str) -> dict[str, int]:
        """Ask the service, in a connection of its own."""
        port = httpx.URL(self.url).port
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)) as connection:
            connection.request(method, path)
            found: dict[str, int] = json.loads(connection.getresponse().read())
            return found

    def remains(self) -> dict[str, int]:
        """Tell what is held, without looking for garbage."""
        figures = self.ask("GET", "/figures")
        return {name: figures[name] for name in ("blocks", "taken", "receiving", "in_flight") if figures[name]}


Act = Callable[[Endpoint], Awaitable[object]]


@dataclass(frozen=True)
class Ending:
    """A way in which a request ends.

    Args:
        name: Tells it apart.
        act: Brings it about.
        kinds: The kinds of endpoint that know it.
    """

    name: str
    act: Act
    kinds: tuple[str, ...] = KINDS


def posted(status: int, fate: str = "answer", **query: object) -> Act:
    async def act(endpoint: Endpoint) -> None:
        assert await endpoint.post(endpoint.path(fate, **query)) == status

    return act


async def form(endpoint: Endpoint) -> None:
    """A field of the form is wrong, which is known when the upload has come."""
    files = {"image": ("a.png", BODY)}
    status = await endpoint.post(endpoint.path(), content=None, files=files, data={"number": "none"})
    assert status == 422


async def malformed_form(endpoint: Endpoint) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    status = await endpoint.post(
        endpoint.path(), {"content-type": "multipart/form-data; boundary=b"}, content=head + BODY
    )
    assert status == 400


async def malformed_gzip(endpoint: Endpoint) -> None:
    assert await endpoint.post(endpoint.path(), {"content-encoding": "gzip"}, content=BODY) == 400


async def too_large(endpoint: Endpoint) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(12):
            yield BODY

    assert await endpoint.post(endpoint.path(), content=pieces()) in (413, 0)


async def idle(endpoint: Endpoint) -> None:
    async with Connection1(endpoint.url) as connection:
        exchange = await connection.post(endpoint.path(), **LENGTH)
        await exchange.send(BODY[:1000])
        assert (await exchange.answer()).status_code == 408


async def timed_out(endpoint: Endpoint) -> None:
    path, gate = endpoint.held("late")
    try:
        assert await endpoint.post(f"/late{path}") == (500 if endpoint.kind == "bare" else 504)
    finally:
        gate.open()


async def cancelled(endpoint: Endpoint) -> None:
    """Something around the endpoint gives up."""
    path, gate = endpoint.held("cancelled")
    request = asyncio.create_task(endpoint.post(path, {"x-cancel": endpoint.kind}))
    try:
        await eventually(gate.is_entered)
        assert endpoint.ask("POST", f"/cancel?name={endpoint.kind}")
        assert await request == 500
    finally:
        gate.open()


async def leaves_while_working(endpoint: Endpoint) -> None:
    path, gate = endpoint.held("left")
    try:
        async with Connection1(endpoint.url) as connection:
            exchange = await connection.post(path, **LENGTH)
            await exchange.send(BODY, is_last=True)
            await eventually(gate.is_entered)
    finally:
        gate.open()


async def leaves_while_uploading(endpoint: Endpoint) -> None:
    async with Connection1(endpoint.url) as connection:
        exchange = await connection.post(endpoint.path(), **LENGTH)
        await exchange.send(BODY[:1000])
        if endpoint.kind in STREAMED:
            await eventually(lambda: endpoint.ask("GET", "/figures")["receiving"])


async def reads_no_answer(endpoint: Endpoint) -> None:
    """Its 4 MiB are more than the system takes for a client that does not read."""
    async with Connection1(endpoint.url) as connection:
        headers = {"content-length": str(len(BODY))}
        exchange = await connection.begin("POST", endpoint.path("large", end="shared"), headers, has_body=True)
        await exchange.send(BODY, is_last=True)
        assert not await exchange.is_asked()


async def dies(endpoint: Endpoint) -> None:
    assert await endpoint.post(endpoint.path("death")) == (500 if endpoint.kind == "bare" else 503)
    await eventually(lambda: endpoint.ask("GET", "/figures")["workers"])


async def unfit(endpoint: Endpoint) -> None:
    assert await endpoint.post(endpoint.path(end="unfit")) == 500


async def broken(endpoint: Endpoint) -> None:
    assert await endpoint.post(endpoint.path(end="broken")) in (0, 200, 500)


ENDINGS = (
    Ending("answer", posted(200)),
    Ending("shared answer", posted(200, end="shared")),
    Ending("handler raises", posted(500, "raise")),
    Ending("handler raises what is mapped", posted(418, "mapped")),
    Ending("handler raises a chain", posted(418, "chain")),
    Ending("handler raises what cannot travel", posted(500, "stranger")),
    Ending("handler exits", posted(500, "exit")),
    Ending("task fails", posted(500, "fail")),
    Ending("result cannot travel", posted(500, "untransportable")),
    Ending("result cannot be rebuilt", posted(500, "fragile")),
    Ending("endpoint raises", posted(500, end="raise")),
    Ending("endpoint refuses", posted(409, end="refuse")),
    Ending("answer does not fit", unfit),
    # A plain route that streams by itself is Starlette's and its own affair.
    Ending("answer breaks", broken, tuple(kind for kind in KINDS if kind != "bare")),
    Ending("answer is not read", reads_no_answer),
    Ending("wrong parameter", posted(422, strict="none"), (*MADE, "plain")),
    Ending("wrong field", form, STREAMED),
    Ending("malformed form", malformed_form, STREAMED),
    Ending("malformed gzip", malformed_gzip, ("short", "long", "plain", "streamed")),
    Ending("too large", too_large, STREAMED),
    Ending("idle", idle, STREAMED),
    Ending("timed out", timed_out),
    Ending("cancelled", cancelled),
    Ending("client leaves the worker", leaves_while_working),
    Ending("client leaves the upload", leaves_while_uploading),
    Ending("worker dies", dies),
)


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Service]]:
    """The application under each server."""
    with ExitStack() as stack:
        running: dict[str, Service] = {}
        for name, module in SERVERS.items():
            directory = tmp_path_factory.mktemp(name)
            running[name] = Service(directory, *stack.enter_context(launched(directory, module)))
        for service in running.values():
            assert wait_until(lambda: service.probe() == 200, START_DEADLINE), service.log()  # noqa: B023
        yield running


@pytest.mark.parametrize(
    ("kind", "ending"),
    [
        pytest.param(kind, ending, id=f"{kind}-{ending.name.replace(' ', '-')}")
        for kind in KINDS
        for ending in ENDINGS
        if kind in ending.kinds
    ],
)
@pytest.mark.parametrize("server", SERVERS)
async def test_nothing_is_kept(
    services: dict[str, Service], tmp_path: Path, server: str, kind: str, ending: Ending
) -> None:
    endpoint = Endpoint(services[server], kind, tmp_path)
    try:
        await ending.act(endpoint)
        await eventually(lambda: not endpoint.remains(), SOON)
    except BaseException:
        endpoint.ask("POST", "/collect")  # for the next test
        raise
