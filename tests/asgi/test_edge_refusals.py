"""A body that an endpoint does not take is refused as early as it can be known, and leaves nothing behind."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI

from fastapi_aqueduct import Aqueduct, ConfigurationError, Flow, FlowTask, UploadLimits, flow_endpoint
from fastapi_aqueduct.asgi.body.limits import is_acceptable
from fastapi_aqueduct.testing import client

from ..support import blocks, eventually, forked
from .handlers import Add, Picture, Sum
from .support import Connection, serving, taken

LIMIT = 1 << 20


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece


def make_app(flow: Flow, **options: Any) -> FastAPI:
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.post("/total")
    @flow_endpoint(flow, timeout_sec=30, **options)
    async def total(task: Picture) -> int:
        return task.total

    return app


# Media types


TYPES: list[tuple[dict[str, Any], int]] = [
    ({"content": b"\1", "headers": {"content-type": "image/png"}}, 200),
    ({"content": b"\1", "headers": {"content-type": "IMAGE/JPEG; q=1"}}, 200),
    ({"content": b"\1", "headers": {"content-type": "application/pdf"}}, 200),
    ({"content": b"\1", "headers": {"content-type": "application/json"}}, 415),
    ({"content": b"\1", "headers": {"content-type": "image"}}, 415),
    ({"content": b"\1"}, 415),
    ({"files": {"image": ("a.png", b"\1", "image/png")}}, 200),
    ({"files": {"image": ("a.txt", b"\1", "text/plain")}}, 415),
    ({"files": {"image": ("a", b"\1", None)}, "data": {"x": "y"}}, 415),
    ({}, 422),
]


async def test_the_media_type_of_an_upload() -> None:
    """It counts for a raw body as for the part of a form, and wildcards are understood."""
    flow = forked(Add())
    async with client(make_app(flow, media_type=["image/*", "application/pdf"])) as http:
        for number, (request, status) in enumerate(TYPES):
            response = await http.post("/total", **request)
            assert response.status_code == status, (number, response.text)
            if status == 415:
                assert response.headers["accept"] == "image/*, application/pdf"
        await eventually(lambda: blocks(flow) == taken(flow) == 0)


@pytest.mark.parametrize("wrong", ["image", "image/", "*/png", "image/png; q=1", ""])
def test_a_media_type_that_is_none(wrong: str) -> None:
    """It is refused where it is written."""
    with pytest.raises(ConfigurationError, match="media_type"):
        flow_endpoint(forked(Add()), media_type=wrong)
    with pytest.raises(ConfigurationError, match="media_type"):
        FlowTask(dependency=Picture, media_type=wrong)


def test_a_media_type_without_an_upload() -> None:
    """It is a mistake."""

    async def endpoint(task: Sum) -> None: ...

    with pytest.raises(ConfigurationError, match="Upload"):
        flow_endpoint(forked(Add()), media_type="image/*")(endpoint)


def test_any_type() -> None:
    """It is named by */*, or by naming none."""
    assert is_acceptable("image/png", ()) and is_acceptable(None, ()) and is_acceptable("a/b", ("*/*",))
    assert not is_acceptable("imagex/png", ("image/*",))


# On the wire


REFUSED: list[tuple[str, tuple[str, ...], int]] = [
    ("too large", (f"Content-Length: {LIMIT + 1}", "Content-Type: image/png"), 413),
    ("of the wrong type", ("Content-Length: 1000", "Content-Type: text/plain"), 415),
    ("of the wrong type, chunked", ("Transfer-Encoding: chunked", "Content-Type: text/plain"), 415),
    ("compressed", ("Content-Length: 1000", "Content-Type: image/png", "Content-Encoding: gzip"), 415),
    ("without a boundary", ("Content-Length: 1000", "Content-Type: multipart/form-data"), 400),
]


@pytest.mark.parametrize("http", ["httptools", "h11"])
async def test_refused_by_its_headers(http: Any) -> None:
    """Nothing of the body is waited for, and the client is not asked to continue."""
    flow = forked(Add())
    async with serving(make_app(flow, media_type="image/*", max_body_size=LIMIT), http) as server:
        for name, headers, status in REFUSED:
            async with Connection(server) as connection:
                await connection.send("/total", *headers, "Expect: 100-continue")
                head = await connection.read_head()
                assert f" {status} " in head.splitlines()[0], (name, head)
            assert taken(flow) == 0


@pytest.mark.parametrize("http", ["httptools", "h11"])
async def test_refused_at_the_limit(http: Any) -> None:
    """A body of unknown length is read up to the limit and not to its end."""
    flow = forked(Add())
    chunk = b"40000\r\n" + bytes(0x40000) + b"\r\n"
    async with serving(make_app(flow, max_body_size=LIMIT), http) as server, Connection(server) as connection:
        await connection.send("/total", "Transfer-Encoding: chunked", "Expect: 100-continue")
        assert " 100 " in await connection.read_head()
        for _ in range(4):
            await connection.send_more(chunk)
        await eventually(lambda: flow.statistics().arena.receiving >= LIMIT)
        await connection.send_more(b"1\r\n\1\r\n")
        assert " 413 " in await connection.read_head()
        await eventually(lambda: taken(flow) == 0)


# max_body_size


async def test_the_limit_of_fastapi() -> None:
    """It counts beside that of the endpoint, and in place of the usual one."""
    flow = forked(Add())
    router = APIRouter(max_body_size=100)
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @router.post("/inherited")
    @flow_endpoint(flow)
    async def inherited(task: Picture) -> int:
        return task.total

    @router.post("/smaller")
    @flow_endpoint(flow, max_body_size=10)
    async def smaller(task: Picture) -> int:
        return task.total

    @router.post("/larger", max_body_size=1000)
    @flow_endpoint(flow, max_body_size=500, upload_limits=UploadLimits(max_body_size=1))
    async def larger(task: Picture) -> int:
        return task.total

    app.include_router(router)
    async with client(app) as http:
        for path, size in (("inherited", 100), ("smaller", 10), ("larger", 500)):
            assert (await http.post(f"/{path}", content=bytes(size))).status_code == 200
            assert (await http.post(f"/{path}", content=bytes(size + 1))).status_code == 413
            assert (await http.post(f"/{path}", content=pieces(bytes(size), b"x"))).status_code == 413
        await eventually(lambda: blocks(flow) == taken(flow) == 0)


async def test_the_limit_of_the_application() -> None:
    """It is that of its Aqueduct; an endpoint may have another."""
    flow = forked(Add())
    aqueduct = Aqueduct(flow, upload_limits=UploadLimits(max_body_size=10))
    app = FastAPI(lifespan=aqueduct.lifespan)

    @app.post("/usual")
    @flow_endpoint(flow)
    async def usual(task: Picture) -> int:
        return task.total

    @app.post("/special")
    @flow_endpoint(flow, max_body_size=20)
    async def special(task: Picture) -> int:
        return task.total

    async with client(app) as http:
        for path, size in (("usual", 10), ("special", 20)):
            assert (await http.post(f"/{path}", content=bytes(size))).status_code == 200
            assert (await http.post(f"/{path}", content=bytes(size + 1))).status_code == 413


# Compressed bodies


def compressed(content: Any, **headers: str) -> dict[str, Any]:
    return {"content": content, "headers": {"content-encoding": "gzip", **headers}}


PACKED = gzip.compress(b"\1" * 1000)
FORM = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n\1\1\r\n--b--\r\n'
GZIP: list[tuple[Callable[[], dict[str, Any]], int | str]] = [
    (lambda: compressed(PACKED), 1000),
    (lambda: compressed(pieces(*(PACKED[i : i + 1] for i in range(len(PACKED))))), 1000),
    (lambda: compressed(PACKED + PACKED), 2000),
    (lambda: compressed(gzip.compress(FORM), **{"content-type": "multipart/form-data; boundary=b"}), 2),
    (lambda: {"content": b"\1\1", "headers": {"content-encoding": "identity"}}, 2),
    (lambda: compressed(PACKED[:-3]), "400"),
    (lambda: compressed(b"\1" * 1000), "400"),
    (lambda: compressed(gzip.compress(bytes(LIMIT + 1))), "413"),
    (lambda: compressed(gzip.compress(bytes(64 << 20))), "413"),
    (lambda: compressed(gzip.compress(b"")), "422"),
    (lambda: {"content": b"x", "headers": {"content-encoding": "br"}}, "415"),
    (lambda: {"content": b"x", "headers": {"content-encoding": "gzip, gzip"}}, "415"),
]


async def test_a_compressed_body() -> None:
    """It is decompressed where that was asked for, no further than the limit."""
    flow = forked(Add())
    async with client(make_app(flow, accept_gzip=True, max_body_size=LIMIT)) as http:
        for number, (request, expected) in enumerate(GZIP):
            response = await http.post("/total", **request())
            assert expected in (response.json(), str(response.status_code)), (number, response.text)
            await eventually(lambda: blocks(flow) == taken(flow) == 0)


async def test_a_body_of_exactly_the_limit_decompressed() -> None:
    """The limit itself is allowed."""
    flow = forked(Add())
    async with client(make_app(flow, accept_gzip=True, max_body_size=LIMIT)) as http:
        assert (await http.post("/total", **compressed(gzip.compress(bytes(LIMIT))))).json() == 0


async def test_compressed_bodies_are_refused_unless_asked_for() -> None:
    """And the answer says what is taken."""
    flow = forked(Add())
    async with client(make_app(flow)) as http:
        response = await http.post("/total", **compressed(PACKED))
        assert (response.status_code, response.headers["accept-encoding"]) == (415, "identity")
