"""The application under every server that the tests ask for, and the clients of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ..support import DEADLINE, wait_until
from .clients import CLIENTS, Client
from .proxy import NGINX, Proxy, running_proxy
from .servers import START_DEADLINE, EdgeService, started
from .ways import PROXIED_SERVERS, Way
from .wire import CONNECTIONS, Connection


@pytest.fixture(scope="package")
def services(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, EdgeService]]:
    """All servers that are needed, started together: each is a second of work for one core."""
    items = [item for item in request.session.items if isinstance(item, pytest.Function) and hasattr(item, "callspec")]
    ways = [way for item in items if isinstance(way := item.callspec.params.get("way"), Way)]
    servers = {way.server.name: way.server for way in ways}
    with ExitStack() as stack:
        running = {
            name: stack.enter_context(started(server, tmp_path_factory.mktemp(name)))
            for name, server in servers.items()
        }
        for service in running.values():
            assert wait_until(service.has_started, START_DEADLINE), service.log()
        yield running


@pytest.fixture(scope="package")
def proxy(services: dict[str, EdgeService], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy | None]:
    """nginx in front of those that are tested behind it; None where it is not installed."""
    upstreams = {server.name: services[server.name].port for server in PROXIED_SERVERS if server.name in services}
    if NGINX is None or not upstreams:
        yield None
        return
    with running_proxy(tmp_path_factory.mktemp("nginx"), upstreams) as proxy:
        yield proxy


@pytest.fixture
def service(way: Way, services: dict[str, EdgeService]) -> Iterator[EdgeService]:
    """The service of a test; when it is over, nothing is held and the log has nothing to complain about."""
    service = services[way.server.name]
    start = len(service.log())
    yield service
    assert wait_until(service.is_idle, DEADLINE), service.figures()
    assert not service.errors(start)


@pytest.fixture
def url(way: Way, service: EdgeService, proxy: Proxy | None) -> str:
    """Where the client of a test goes."""
    if way.buffering is None:
        return service.url
    assert proxy is not None
    return proxy.url(way.server.name, way.buffering)


@pytest.fixture
async def client(way: Way, url: str, tmp_path: Path) -> AsyncIterator[Client]:
    """The client of a test."""
    client = CLIENTS[way.client](url, tmp_path)
    yield client
    await client.close()


@pytest.fixture
async def connection(way: Way, url: str) -> AsyncIterator[Connection]:
    """A connection for a test that is the client itself."""
    async with CONNECTIONS[way.client](url) as connection:
        yield connection
