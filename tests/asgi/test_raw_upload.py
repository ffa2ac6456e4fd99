"""A body that is never taken apart: `RawUpload`."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
import pytest
from fastapi import FastAPI, Form, Response

from fastapi_aqueduct import Aqueduct, BaseTask, ConfigurationError, Flow, RawUpload, Upload, UploadTo, flow_endpoint
from fastapi_aqueduct.testing import client, inline

from ..support import blocks, eventually, forked
from .raw_handlers import Document, MaybeDocument, Read, read

FORM = httpx.Request("POST", "http://test/", files={"body": ("a.png", bytes(100_000))}, data={"title": "x"})
MULTIPART = FORM.headers["content-type"]


BODIES = {
    "form": (FORM.read(), MULTIPART),
    "broken form": (b"--b\r\nno form at all", "multipart/form-data; boundary=b"),
    "no boundary": (b"no boundary", "multipart/form-data"),
    "fields": (b"a=1&b=2", "application/x-www-form-urlencoded"),
    "json": (b'{"a": 1}', "application/json"),
    "large": (bytes(200_000), "application/x-npy"),
    "no type": (b"anything", ""),
}


def make_app(flow: Flow) -> FastAPI:
    app = FastAPI(lifespan=Aqueduct(flow, read).lifespan)

    @app.post("/read")
    @flow_endpoint(flow, max_body_size=1 << 20, accept_gzip=True)
    async def whole(task: Document) -> Response:
        headers = {"x-size": str(task.body_info.size), "x-name": str(task.body_info.filename), "x-note": task.note}
        return Response(task.content, media_type=task.body_info.content_type, headers=headers)

    @app.post("/maybe")
    @flow_endpoint(flow)
    async def maybe(task: MaybeDocument) -> Response:
        return Response(task.content)

    @app.post("/xml")
    @flow_endpoint(flow, media_type="application/xml")
    async def xml(task: Document) -> None: ...

    @app.post("/function")
    async def function(body: Annotated[memoryview, UploadTo(read, raw=True)]) -> Response:
        return Response(await read(body))

    return app


@asynccontextmanager
async def served(flow: Flow) -> AsyncIterator[Any]:
    """Serve with workers in threads: what is tested happens before them."""
    with inline(flow), inline(read):
        async with client(make_app(flow)) as http:
            yield http


async def test_the_body_is_what_was_sent() -> None:
    flow = Flow(Read())
    async with served(flow) as http:
        for name, (body, content_type) in BODIES.items():
            headers = {"content-type": content_type} if content_type else {}
            for path in ("/maybe", "/function", "/read?note=n"):
                response = await http.post(path, content=body, headers=headers)
                assert response.status_code == 200, (name, path, response.text)
                assert response.content == body, (name, path)
            assert response.headers["x-size"] == str(len(body))
            assert response.headers["x-note"] == "n"
            assert response.headers.get("content-type", "").startswith(content_type)
        await eventually(lambda: blocks(flow) == blocks(read.flow) == 0)


async def test_limits_guards_and_codings_are_those_of_other_uploads() -> None:
    form = {"content-type": MULTIPART}
    async with served(Flow(Read())) as http:
        assert (await http.post("/read", content=bytes((1 << 20) + 1), headers=form)).status_code == 413
        assert (await http.post("/read", content=b"", headers=form)).status_code == 422
        assert (await http.post("/maybe", content=b"", headers=form)).content == b""
        assert (await http.post("/xml", content=FORM.read(), headers=form)).status_code == 415
        coded = {**form, "content-encoding": "gzip"}
        packed = await http.post("/read", content=gzip.compress(FORM.read()), headers=coded)
        assert packed.content == FORM.read()
        named = await http.post("/read", content=b"x", headers={"content-disposition": 'attachment; filename="a.pdf"'})
        assert named.headers["x-name"] == "a.pdf"


def test_openapi_describes_a_binary_body() -> None:
    flow = forked(Read())
    app = make_app(flow)
    Aqueduct(flow).install(app)
    paths = app.openapi()["paths"]
    file = {"type": "string", "contentMediaType": "application/octet-stream"}
    required = {"required": True, "content": {"application/octet-stream": {"schema": {**file, "minLength": 1}}}}
    assert paths["/read"]["post"]["requestBody"] == required
    assert paths["/function"]["post"]["requestBody"] == required
    assert paths["/maybe"]["post"]["requestBody"] == {
        "required": False, "content": {"application/octet-stream": {"schema": file}}
    }  # fmt: skip
    assert list(paths["/xml"]["post"]["requestBody"]["content"]) == ["application/xml"]


class TwoBodies(BaseTask):
    def __init__(self, body: RawUpload, image: Upload) -> None: ...


class ListOfBodies(BaseTask):
    def __init__(self, bodies: list[RawUpload]) -> None: ...


class WithField(BaseTask):
    def __init__(self, body: RawUpload, title: Annotated[str, Form()]) -> None: ...


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (TwoBodies, "body is a RawUpload, which is the whole body"),
        (ListOfBodies, "bodies is a RawUpload.* no list"),
        (WithField, "WithField: body is a RawUpload.* title cannot be fields of a form"),
    ],
)
def test_nothing_else_comes_from_the_body(kind: Any, wrong: str) -> None:
    async def endpoint(task: Any) -> None: ...

    endpoint.__annotations__["task"] = kind
    with pytest.raises(ConfigurationError, match=wrong):
        flow_endpoint(forked(Read()))(endpoint)


def test_no_field_of_a_form_in_the_endpoint_either() -> None:
    async def endpoint(task: Document, title: Annotated[str, Form()]) -> None: ...

    with pytest.raises(ConfigurationError, match="title cannot be fields of a form"):
        flow_endpoint(forked(Read()))(endpoint)
