"""The ways from a client to the application: which of them each test goes, and which only the long ones do."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest

from .clients import CLIENTS
from .proxy import BUFFERING, NGINX
from .servers import GRANIAN, HYPERCORN, SERVERS, UVICORN, Server

HTTP2_SERVERS = (HYPERCORN, GRANIAN)
PROXIED_SERVERS = (UVICORN, GRANIAN)

NEEDS_CURL = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl: apt-get install curl")
NEEDS_NGINX = pytest.mark.skipif(NGINX is None, reason="needs nginx: apt-get install nginx")


@dataclass(frozen=True)
class Way:
    """A client, a server, and perhaps a proxy between them.

    Args:
        server: What serves the application.
        client: Name of the client; of the protocol where the test is the client itself.
        buffering: Whether the proxy buffers; None: there is no proxy.
    """

    server: Server
    client: str
    buffering: str | None = None

    def __str__(self) -> str:
        proxy = () if self.buffering is None else (f"nginx-buffering-{self.buffering}",)
        return "-".join((self.client, *proxy, self.server.name))

    @property
    def is_http2(self) -> bool:
        """Whether the client speaks HTTP/2."""
        return self.client.endswith("http2")

    @property
    def may_lose_refusals(self) -> bool:
        """Whether an answer that is there before the body may never be seen by a client that is still sending."""
        return not self.server.drains

    @property
    def is_buffered(self) -> bool:
        """Whether the application sees a request only when all of it has come, and has its answer taken at once."""
        return self.buffering == "on"


DIRECT = [
    Way(server, client) for server in SERVERS for client in CLIENTS if "http2" not in client or server in HTTP2_SERVERS
]
PROXIED = [Way(server, "httpx", buffering) for server in PROXIED_SERVERS for buffering in BUFFERING]
SHORT = {
    *(Way(server, "httpx") for server in SERVERS),
    *(way for way in DIRECT if way.server is UVICORN or (way.server is HYPERCORN and way.is_http2)),
    Way(GRANIAN, "httpx-http2"),
    *PROXIED,
}
"""Every server with one client, every client with one server of each protocol; the others are for the long tests."""

WIRE1 = [Way(server, "http1") for server in SERVERS]
WIRE2 = [Way(server, "http2") for server in HTTP2_SERVERS]
WIRE_STREAMED = [Way(server, "http1", "off") for server in PROXIED_SERVERS]


def along(ways: Iterable[Way]) -> pytest.MarkDecorator:
    """Run a test once for each way."""
    return pytest.mark.parametrize("way", [_param(way) for way in ways])


def _param(way: Way) -> Any:
    marks = [
        *([NEEDS_CURL] if way.client.startswith("curl") else []),
        *([NEEDS_NGINX] if way.buffering is not None else []),
        *([] if way in SHORT or way.client not in CLIENTS else [pytest.mark.long]),
    ]
    return pytest.param(way, marks=marks, id=str(way))


every_way = along([*DIRECT, *PROXIED])
