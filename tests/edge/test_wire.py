"""When an answer comes while the body is still to come, and what becomes of the connection then."""

from __future__ import annotations

from ..support import eventually
from .application import LIMIT
from .servers import EdgeService
from .ways import WIRE1, WIRE2, WIRE_STREAMED, Way, along
from .wire import CONNECTIONS, Connection, Connection1, Exchange

REFUSED = (
    (413, "/inspect", {"content_length": str(LIMIT + 1)}),
    (415, "/image", {"content_length": "1000", "content_type": "text/plain"}),
    (415, "/image", {"content_type": "text/plain"}),
    (415, "/image", {"content_length": "1000", "content_type": "image/png", "content_encoding": "br"}),
    (422, "/inspect?factor=0", {"content_length": "1000"}),
    (400, "/inspect", {"content_length": "1000", "content_type": "multipart/form-data"}),
)
"""Of what the head of a request is enough to know."""


@along(WIRE1)
async def test_a_client_that_asks_first(way: Way, url: str) -> None:
    """It gets ``100 Continue`` if its body is needed, and otherwise the answer at once."""
    async with Connection1(url) as connection:
        exchange = await connection.begin(
            "POST", "/inspect", {"content-length": "3", "expect": "100-continue"}, has_body=True
        )
        assert await exchange.is_asked()
        await exchange.send(b"abc", is_last=True)
        assert (await exchange.answer()).json()["size"] == 3
        assert exchange.interim == [100]
    for status, path, headers in REFUSED:
        async with Connection1(url) as connection:
            refused = await connection.post(path, **headers, expect="100-continue")
            assert (await refused.answer()).status_code == status
            assert refused.interim == ([] if way.server.asks_first else [100])


@along([*WIRE1, *WIRE2, *WIRE_STREAMED])
async def test_refused_by_the_head(way: Way, url: str) -> None:
    """Nothing of the body is waited for."""
    for status, path, headers in REFUSED:
        async with CONNECTIONS[way.client](url) as connection:
            exchange = await connection.post(path, **headers)
            assert (await exchange.answer()).status_code == status
            await check_what_follows(way, connection, exchange, int(headers.get("content_length", 5)))


async def check_what_follows(way: Way, connection: Connection, exchange: Exchange, size: int) -> None:
    """See that the connection can be used again, or is closed."""
    if way.buffering is not None:
        return  # nginx waits some time for the rest, and then closes it
    if isinstance(connection, Connection1) and not way.server.drains:
        assert await connection.closes()
        return
    if way.is_http2:
        await exchange.give_up()
    else:
        await exchange.send(bytes(size), is_last=True)
    assert (await connection.get("/ready")).status_code == 200


@along([*WIRE1, *WIRE2, *WIRE_STREAMED])
async def test_refused_at_the_limit(way: Way, connection: Connection, service: EdgeService) -> None:
    """A body of unknown length is read up to there, and not to its end."""
    exchange = await connection.post("/inspect")
    await exchange.send(bytes(LIMIT))
    await eventually(lambda: service.figures()["receiving"] >= LIMIT)
    await exchange.send(b"x")
    assert (await exchange.answer()).status_code == 413
    await exchange.give_up()
    await eventually(service.is_idle)


@along([*WIRE1, *WIRE2])
async def test_too_slow(way: Way, connection: Connection) -> None:
    """The client gets the answer and its connection is closed, without waiting for the garbage collector."""
    exchange = await connection.post("/patient", content_length="1000")
    await exchange.send(b"x")
    response = await exchange.answer()
    assert response.status_code == 408
    if way.is_http2:
        await exchange.give_up()
        assert (await connection.get("/ready")).status_code == 200
    else:
        assert isinstance(connection, Connection1)
        assert response.headers["connection"] == "close"
        assert await connection.closes()
