"""Uploads in ordinary endpoints, streamed into the shared memory of a function."""

from __future__ import annotations

import asyncio
import gzip
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import APIRouter, Depends, FastAPI, Form
from starlette.requests import ClientDisconnect

from fastapi_aqueduct import (
    Aqueduct,
    ConfigurationError,
    InvalidArgument,
    SharedResponse,
    UploadTo,
    flow_endpoint,
)
from fastapi_aqueduct.asgi.dependencies import GivenFlow
from fastapi_aqueduct.testing import client, inline

from ..asgi.handlers import Picture
from ..asgi.support import Connection, serving, taken
from ..support import blocks, eventually
from .elsewhere import halve
from .functions import behave, first_half, resize

PICTURE = bytes(range(250)) * 400

Image = Annotated[memoryview, UploadTo(resize)]


def size_of(image: Image) -> int:
    return len(image)


def make_application() -> FastAPI:
    app = FastAPI(lifespan=Aqueduct(resize, first_half, behave).lifespan)
    router = APIRouter()

    @app.post("/resize")
    async def resize_image(image: Image, width: int = 64) -> dict[str, Any]:
        return await resize(image, width, note=b"x")

    @router.post("/half")
    async def half(image: Annotated[memoryview, UploadTo(first_half)]) -> SharedResponse:
        return SharedResponse(await first_half(image))

    @app.post("/png")
    def png(
        picture: Annotated[memoryview, UploadTo(resize, media_type="image/png", max_body_size=1000, accept_gzip=True)],
    ) -> int:
        return len(picture)

    @app.post("/indirect")
    async def indirect(size: Annotated[int, Depends(size_of)]) -> int:
        return size

    @app.post("/several")
    async def several(files: Annotated[list[memoryview], UploadTo(resize)]) -> list[int]:
        return [len(file) for file in files]

    @app.post("/maybe")
    async def maybe(image: Annotated[memoryview | None, UploadTo(resize.flow)]) -> int | None:
        return None if image is None else len(image)

    @app.post("/raise")
    async def fail(image: Image) -> None:
        await behave("raise")

    @app.post("/slow")
    async def slow(image: Image) -> None:
        await behave.with_options(timeout_sec=0.05)("wait", 0.3)

    app.include_router(router, prefix="/pictures")
    return app


async def test_uploads_in_ordinary_endpoints() -> None:
    app = make_application()
    async with client(app, raise_app_exceptions=False) as http:
        found = (await http.post("/resize?width=7", content=PICTURE)).json()
        assert {name: found[name] for name in ("type", "size", "is_writable", "width")} == {
            "type": "memoryview", "size": len(PICTURE), "is_writable": False, "width": 7
        }  # fmt: skip
        # As a part of a form it has the name of the parameter.
        assert (await http.post("/resize", files={"image": PICTURE})).json()["size"] == len(PICTURE)
        assert (await http.post("/pictures/half", content=PICTURE)).content == PICTURE[: len(PICTURE) // 2]
        assert (await http.post("/indirect", files={"image": b"abc"})).json() == 3
        files = [("files", b"ab"), ("files", b"c")]
        assert (await http.post("/several", files=files)).json() == [2, 1]
        assert [(await http.post("/maybe", content=content)).json() for content in (b"", b"ab")] == [None, 2]
        await check_guards(http)
        assert (await http.post("/raise", content=PICTURE)).status_code == 500
        assert (await http.post("/slow", content=PICTURE)).status_code == 504
        await eventually(lambda: blocks(resize.flow) == blocks(first_half.flow) == 0)
        await eventually(lambda: taken(resize.flow) == taken(first_half.flow) == 0)
        check_schema((await http.get("/openapi.json")).json())


async def check_guards(http: httpx2.AsyncClient) -> None:
    """The answers are those of other uploads."""
    png = {"content-type": "image/png"}
    missing = await http.post("/resize")
    assert (missing.status_code, missing.json()["detail"][0]["loc"]) == (422, ["body", "image"])
    assert (await http.post("/resize", files={"other": b"a"})).json()["detail"][0]["loc"] == ["body", "image"]
    assert (await http.post("/resize", files={"image": b""})).json()["detail"][0]["msg"].endswith("the file is empty")
    assert (await http.post("/png", content=b"a")).status_code == 415
    assert (await http.post("/png", content=b"a", headers=png)).json() == 1
    assert (await http.post("/png", content=bytes(1001), headers=png)).status_code == 413
    packed = {**png, "content-encoding": "gzip"}
    assert (await http.post("/png", content=gzip.compress(bytes(1000)), headers=packed)).json() == 1000
    assert (await http.post("/png", content=gzip.compress(bytes(1001)), headers=packed)).status_code == 413
    assert (await http.post("/resize", content=b"a", headers={"content-encoding": "gzip"})).status_code == 415


def check_schema(schema: dict[str, Any]) -> None:
    operation = schema["paths"]["/png"]["post"]
    assert set(operation["responses"]) == {"200", "400", "408", "413", "415", "422", "503", "504"}
    assert set(operation["requestBody"]["content"]) == {"image/png", "multipart/form-data"}
    form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert (set(form["properties"]), form["required"]) == ({"picture"}, ["picture"])
    assert "parameters" not in operation
    assert not schema["paths"]["/maybe"]["post"]["requestBody"]["required"]


async def test_a_client_that_leaves() -> None:
    """During the upload its memory is released; later the call is withdrawn."""
    app = make_application()
    ended = asyncio.Event()

    @app.post("/wait")
    async def wait(image: Image) -> None:
        try:
            await behave("wait", 2.5)
        except ClientDisconnect:
            ended.set()
            raise

    async with serving(app) as http:
        async with Connection(http) as connection:
            await connection.send("/wait", "Content-Length: 100000", body=bytes(50_000))
            await eventually(lambda: taken(resize.flow) > 0)
        await eventually(lambda: taken(resize.flow) == 0)
        assert not ended.is_set()
        async with Connection(http) as connection:
            await connection.send("/wait", "Content-Length: 100000", body=bytes(100_000))
            await eventually(lambda: blocks(resize.flow) == 1)
        async with asyncio.timeout(2):
            await ended.wait()
        await eventually(lambda: blocks(resize.flow) == 0)


async def test_the_flow_can_be_replaced_in_tests() -> None:
    app = make_application()
    app.dependency_overrides[GivenFlow(resize.flow)] = lambda: first_half.flow
    async with inline(resize), inline(first_half), inline(behave), client(app) as http:
        assert (await http.post("/indirect", content=PICTURE)).json() == len(PICTURE)


def test_what_is_no_upload() -> None:
    for value in (None, halve, int):
        with pytest.raises(InvalidArgument, match="UploadTo needs a function of in_worker, a pool or a flow"):
            UploadTo(value)  # type: ignore[arg-type]
    for kind in (bytes, memoryview | bytes, list[bytes]):
        with pytest.raises(InvalidArgument, match="UploadTo gives a memoryview"):
            FastAPI().post("/")(endpoint_with(kind))


def endpoint_with(kind: Any) -> Any:
    async def endpoint(image: Any) -> None: ...

    endpoint.__annotations__["image"] = Annotated[kind, UploadTo(resize)]
    return endpoint


async def test_a_second_reader_of_the_body_is_refused_at_the_start() -> None:
    async def twice(front: Image, back: Image) -> None: ...

    async def with_form(image: Image, title: Annotated[str, Form()]) -> None: ...

    @flow_endpoint(resize.flow)
    async def with_task(task: Picture, other: Image) -> None: ...

    for endpoint, name in ((twice, "back and front"), (with_form, "title"), (with_task, "image and other")):
        app = FastAPI(lifespan=Aqueduct(resize).lifespan)
        app.post("/two")(endpoint)
        with pytest.raises(ConfigurationError, match=f"/two has a parameter with UploadTo.*, so {name} cannot"):
            async with client(app):
                pass
