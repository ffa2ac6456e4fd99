"""Digests of uploads, taken while they stream."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import random
from collections.abc import AsyncIterator
from typing import Annotated, Any

import pytest
from fastapi import FastAPI
from httpx import AsyncClient

from fastapi_aqueduct import (
    Aqueduct,
    BaseTask,
    ConfigurationError,
    Flow,
    InvalidArgument,
    Sha256,
    Upload,
    UploadInfo,
    UploadTo,
    flow_endpoint,
)
from fastapi_aqueduct.asgi.binding.uploads import body_bindings
from fastapi_aqueduct.engine.memory.banker import ArrivalCap
from fastapi_aqueduct.testing import client, inline

from ..support import DEADLINE, blocks, eventually
from .hashed import Book, Note, Page, Whole, size_of
from .support import serving, taken

MIB = 1 << 20
BODIES = [b"x", random.Random(1).randbytes(300_000), random.Random(2).randbytes(MIB)]
FORM = {"content-type": "multipart/form-data; boundary=b"}
WithInfo = tuple[memoryview, UploadInfo]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def make_app(flow: Flow) -> FastAPI:
    app = FastAPI(lifespan=Aqueduct(flow, size_of).lifespan)

    @app.post("/page")
    @flow_endpoint(flow, accept_gzip=True)
    async def page(task: Page) -> list[str | None]:
        return task.digests

    @app.post("/whole")
    @flow_endpoint(flow, accept_gzip=True)
    async def whole(task: Whole) -> list[str | None]:
        return task.digests

    @app.post("/book")
    @flow_endpoint(flow)
    async def book(task: Book) -> list[str | None]:
        return task.digests

    @app.post("/function")
    async def function(image: Annotated[WithInfo, UploadTo(size_of, sha256=True, accept_gzip=True)]) -> list[Any]:
        view, info = image
        return [await size_of(view), info.sha256]

    @app.post("/functions")
    async def functions(images: Annotated[list[WithInfo] | None, UploadTo(size_of, sha256=True)]) -> list[str | None]:
        return [info.sha256 for _, info in images or []]

    @app.post("/plain")
    async def plain(image: Annotated[WithInfo, UploadTo(size_of, raw=True)]) -> list[Any]:
        return [*image[1]]

    return app


@pytest.fixture
def flow() -> Flow:
    return Flow(Note(), name="note", memory_limit=2 * MIB)


@pytest.fixture
async def http(flow: Flow) -> AsyncIterator[AsyncClient]:
    """A client of a real server; the workers are in threads, as what is tested happens before them."""
    with inline(flow), inline(size_of):
        async with serving(make_app(flow)) as http:
            yield http


async def test_the_digest_is_that_of_the_bytes_that_the_task_gets(flow: Flow, http: AsyncClient) -> None:
    """Raw, as a part of a form, compressed, and as a form that is not taken apart."""
    packed = {"content-encoding": "gzip"}
    for body in BODIES:
        for path in ("/page", "/whole"):
            assert (await http.post(path, content=body)).json() == [digest(body)]
            response = await http.post(path, content=gzip.compress(body, 1), headers=packed)
            assert response.json() == [digest(body)]
        assert (await http.post("/page", files={"image": body})).json() == [digest(body)]
        form = b"--b\r\nContent-Disposition: form-data; name=image; filename=a\r\n\r\n" + body + b"\r\n--b--\r\n"
        assert (await http.post("/whole", content=form, headers=FORM)).json() == [digest(form)]
        response = await http.post("/page", content=gzip.compress(form, 1), headers={**FORM, **packed})
        assert response.json() == [digest(body)]
        assert (await http.post("/function", content=body)).json() == [len(body), digest(body)]
        response = await http.post("/function", content=gzip.compress(body, 1), headers=packed)
        assert response.json() == [len(body), digest(body)]
        assert (await http.post("/plain", content=form, headers=FORM)).json()[2:] == [len(form), None]
    await eventually(lambda: blocks(flow) == taken(flow) == blocks(size_of.flow) == taken(size_of.flow) == 0)


async def test_each_file_of_a_form_has_its_own(http: AsyncClient) -> None:
    """Also an empty one; one that asks for none has none."""
    contents = [b"1", BODIES[1], b"", b"4"]
    files = [*[("pages", content) for content in contents[:2]], ("cover", b"5"), ("pages", contents[2])]
    expected = [digest(content) for content in contents[:3]]
    response = await http.post("/book", files=[*files[:3], ("note", contents[3])])
    assert response.json() == [*expected[:2], None, digest(contents[3])]
    assert (await http.post("/functions", files=[("images", content) for content in contents])).json() == [
        digest(content) for content in contents
    ]
    assert (await http.post("/functions", content=b"")).json() == []


@pytest.mark.parametrize("kind", ["raw", "form"])
async def test_a_body_that_waits_for_memory(flow: Flow, kind: str) -> None:
    body = BODIES[2]
    with inline(flow), inline(size_of):
        async with client(make_app(flow)) as http:
            with flow.receive(3 * MIB // 2, 2 * MIB, 60.0, ArrivalCap(size=1 << 40)) as writer:
                writer.begin()
                assert writer.try_write(bytes(3 * MIB // 2))
                others = [writer.finish()]

            async def pieces() -> AsyncIterator[bytes]:
                head = b"--b\r\nContent-Disposition: form-data; name=image; filename=a\r\n\r\n"
                whole = body if kind == "raw" else head + body + b"\r\n--b--\r\n"
                for start in range(0, len(whole), 100_000):
                    yield whole[start : start + 100_000]

            headers = {} if kind == "raw" else FORM
            posting = asyncio.create_task(http.post("/page", content=pieces(), headers=headers))
            await eventually(lambda: flow.statistics().arena.receiving > 400_000)
            assert not posting.done()
            others.clear()
            response = await asyncio.wait_for(posting, DEADLINE)
            assert response.json() == [digest(body)]


def test_it_is_taken_only_where_it_is_asked_for(flow: Flow) -> None:
    hashed = {
        f"{route.path} {name}"  # type: ignore[attr-defined]
        for route in make_app(flow).routes
        for binding in body_bindings(route)
        for name, part in binding.uploads.parts.items()
        if part.is_hashed
    }
    assert hashed == {"/page image", "/whole body", "/book pages", "/book note", "/function image", "/functions images"}


class OnUpload(BaseTask):
    def __init__(self, image: Annotated[Upload, Sha256()]) -> None: ...


def test_what_cannot_work(flow: Flow) -> None:
    with pytest.raises(ConfigurationError) as caught:

        @flow_endpoint(flow)
        async def endpoint(task: OnUpload) -> None: ...

    assert str(caught.value) == (
        "OnUpload: Sha256() asks for the digest in an UploadInfo, and image is none: "
        "image_info: Annotated[UploadInfo, Sha256()] beside image: Upload"
    )
    with pytest.raises(InvalidArgument, match=r"UploadTo\(sha256=True\) puts the digest into an UploadInfo"):
        FastAPI().post("/")(declared(memoryview))
    with pytest.raises(InvalidArgument, match=r"UploadTo gives a memoryview or a tuple\[memoryview, UploadInfo\]"):
        FastAPI().post("/")(declared(tuple[memoryview, int]))
    assert repr(Sha256()) == "Sha256()"


def declared(kind: Any) -> Any:
    """Return an endpoint with a parameter of this type."""

    async def endpoint(image: Any) -> None: ...

    endpoint.__annotations__["image"] = Annotated[kind, UploadTo(size_of, sha256=True)]
    return endpoint
