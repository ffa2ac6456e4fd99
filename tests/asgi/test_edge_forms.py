"""Uploads and fields in one multipart form."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Cookie, Depends, FastAPI, File, Form, Header, Query, Request, Response, UploadFile
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from fastapi_aqueduct import (
    Aqueduct,
    BaseTask,
    ConfigurationError,
    Flow,
    FlowDep,
    FlowTask,
    Upload,
    UploadInfo,
    flow_endpoint,
)
from fastapi_aqueduct.testing import client

from ..support import blocks, eventually, forked
from .edge_handlers import Compare, Described, Label, Labelled, Look, Pair, Pass
from .handlers import Add, Picture
from .json_handlers import Join, Order, Text
from .support import taken

FRONT = ("front.png", b"\1\2\3" * 50_000, "image/png")
BACK = ("naïve\u2713.bin", b"\1", "application/octet-stream; x=y")
INFOS = [["front.png", "image/png", 150_000], ["naïve\u2713.bin", "application/octet-stream; x=y", 1]]


def pair_app(flow: Flow) -> FastAPI:
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.post("/pair")
    @flow_endpoint(flow)
    async def pair(task: Pair, note: Annotated[str, Form(max_length=3)] = "") -> list[Any]:
        return [*task.report, note]

    @app.post("/by_hand")
    async def by_hand(task: Annotated[Pair, FlowTask()], flow: FlowDep) -> list[Any]:
        await flow.process(task)
        return [*task.report, ""]

    @app.post("/native")
    async def native(
        front: Annotated[UploadFile, File()],
        back: Annotated[UploadFile, File()],
        title: Annotated[str, Form()],
        numbers: Annotated[list[int], Form()] = [],  # noqa: B006
        note: Annotated[str, Form(max_length=3)] = "",
    ) -> None: ...

    return app


async def test_several_uploads_and_fields() -> None:
    """Each upload is a block of its own, its description travels with it, fields are validated."""
    flow = forked(Compare())
    async with client(pair_app(flow)) as http:
        files = [("back", BACK), ("front", FRONT)]
        data = {"title": "T", "numbers": ["1", "2"], "note": "n", "unknown": "x"}
        response = await http.post("/pair?quality=7", files=files, data=data)
        assert response.json() == [300_000, 1, INFOS, "T", [1, 2], 7, "n"]
        response = await http.post("/by_hand", files=files, data={"title": "ü"})
        assert response.json() == [300_000, 1, INFOS, "ü", [], 1, ""]
        await eventually(lambda: blocks(flow) == taken(flow) == 0)


WRONG: list[dict[str, Any]] = [
    {"files": {"front": FRONT, "back": BACK}},
    {"files": {"front": FRONT}, "data": {"title": "T"}},
    {"files": {"front": FRONT, "back": BACK}, "data": {"title": "", "numbers": ["1", "x"], "note": "long"}},
    {"files": {"other": FRONT}},
    {},
]


async def test_the_answer_to_wrong_fields_is_that_of_fastapi() -> None:
    """Word for word."""
    flow = forked(Compare())
    async with client(pair_app(flow)) as http:
        for request in WRONG:
            ours, native = await http.post("/pair", **request), await http.post("/native", **request)
            assert (ours.status_code, native.status_code) == (422, 422)
            if request:
                assert ours.json() == native.json()
            await eventually(lambda: blocks(flow) == taken(flow) == 0)


async def test_what_needs_a_form() -> None:
    """Several uploads cannot be one raw body."""
    flow = forked(Compare())
    async with client(pair_app(flow)) as http:
        response = await http.post("/pair", content=b"x", headers={"content-type": "image/png"})
        assert (response.status_code, "front and back" in response.text) == (415, True)


async def test_a_model_of_fields() -> None:
    """It is filled from the form; an upload that need not come may be left out."""
    flow = forked(Pass())
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.post("/label")
    @flow_endpoint(flow)
    async def label(task: Labelled) -> tuple[int, int, Label]:
        return task.size, task.mask_size, task.label

    async with client(app) as http:
        fields = {"text": "abc", "size": "4"}
        response = await http.post("/label", files={"image": b"xy", "mask": b"x"}, data=fields)
        assert response.json() == [2, 1, {"text": "abc", "size": 4}]
        response = await http.post("/label", files={"image": b"xy"}, data={"text": "abc"})
        assert response.json() == [2, -1, {"text": "abc", "size": 3}]
        response = await http.post("/label", files={"image": b"xy"}, data={"text": "abcdef"})
        assert [error["loc"] for error in response.json()["detail"]] == [["body", "text"]]


async def test_no_body_for_an_upload_that_need_not_come() -> None:
    """The upload is None, with or without a Content-Length of 0; missing fields are still refused."""
    flow = forked(Pass())
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.post("/size")
    @flow_endpoint(flow, media_type="image/*")
    async def size(task: Maybe) -> int:
        return task.size

    async with client(app) as http:
        for headers in ({}, {"content-length": "0"}, {"content-length": "0", "content-type": "text/html"}):
            assert (await http.post("/size", headers=headers)).json() == -1
        assert (await http.post("/size", content=b"abc", headers={"content-type": "image/png"})).json() == 3
    body = app.openapi()["paths"]["/size"]["post"]["requestBody"]
    assert not body["required"] and "minLength" not in body["content"]["image/*"]["schema"]


async def test_the_description_of_an_upload() -> None:
    """Also of a raw body."""
    flow = forked(Look())
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.post("/look")
    @flow_endpoint(flow)
    async def look(task: Described) -> tuple[Any, ...]:
        return task.seen

    async with client(app) as http:
        assert (await http.post("/look", content=b"xyz")).json() == [None, None, 3]
        headers = {"content-type": "image/png", "content-disposition": 'attachment; filename="a.png"'}
        assert (await http.post("/look", content=b"xyz", headers=headers)).json() == ["a.png", "image/png", 3]
        assert (await http.post("/look", files={"image": ("b.png", b"x")})).json() == ["b.png", "image/png", 1]


async def test_limits_of_the_fields() -> None:
    """They lie on the heap, so they have a limit of their own; files that the task does not declare do not count."""
    flow = forked(Compare())
    async with client(pair_app(flow)) as http:
        files = {"front": FRONT, "back": BACK}
        response = await http.post("/pair", files=files, data={"title": "T" * (1 << 20), "note": "n"})
        assert response.status_code == 413
        response = await http.post("/pair", files={**files, "big": bytes(2 << 20)}, data={"title": "T"})
        assert response.status_code == 200
        response = await http.post("/pair", files=files, data={"title": "T", "numbers": ["1"] * 1000})
        assert response.status_code == 400


# Beside a body


def user(x_user: Annotated[str, Header()]) -> str:
    return x_user.upper()


class Rich(Text):
    """A JSON model, and something from everywhere else."""

    def __init__(
        self, order: Order, who: Annotated[str, Depends(user)], flag: Annotated[str, Cookie()], place: str, count: int
    ) -> None:
        super().__init__(order)
        self.about = [who, flag, place, count]


class Extra(BaseModel):
    """A second JSON model."""

    word: str


@pytest.mark.parametrize("has_same_names", [False, True])
async def test_everything_else_a_request_has(has_same_names: bool) -> None:
    """Header, cookie, path, query, dependencies and two JSON models, in the task and in the function."""
    flow = forked(Join())
    inner, router = FastAPI(), APIRouter(prefix="/v1")

    if has_same_names:

        @router.post("/{place}")
        @flow_endpoint(flow, timeout_sec=60)
        async def same(
            task: Rich, extra: Extra, count: Annotated[int, Query(ge=2)], request: Request, response: Response
        ) -> list[Any]:
            response.headers["x-path"] = request.url.path
            return [task.text, *task.about, extra.word, count]

    else:

        @router.post("/{place}")
        @flow_endpoint(flow, timeout_sec=60)
        async def different(
            task: Rich, extra: Extra, number: Annotated[int, Query(alias="count", ge=2)], request: Request
        ) -> Any:
            answer = [task.text, *task.about, extra.word, number]
            return JSONResponse(answer, headers={"x-path": request.url.path})

    inner.include_router(router)
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)
    app.mount("/inner", inner)
    body = {"order": {"words": ["a", "b"]}, "extra": {"word": "c"}}
    async with client(app) as http:
        http.cookies["flag"] = "f"
        response = await http.post("/inner/v1/here?count=3", json=body, headers={"x-user": "me"})
        assert response.json() == ["a b", "ME", "f", "here", 3, "c", 3]
        assert response.headers["x-path"] == "/inner/v1/here"
        response = await http.post("/inner/v1/here?count=1", json={}, headers={"x-user": "me"})
        assert {tuple(error["loc"]) for error in response.json()["detail"]} == {
            ("body", "order"),
            ("body", "extra"),
            ("query", "count"),
        }
        inner.dependency_overrides[user] = lambda: "other"
        response = await http.post("/inner/v1/here?count=2", json=body)
        assert response.json()[1] == "other"


class Maybe(BaseTask):
    """A file that need not come."""

    def __init__(self, image: Upload | None = None) -> None:
        super().__init__()
        self.size = -1 if image is None else len(image)


class Stray(BaseTask):
    """A description of nothing."""

    def __init__(self, image: Upload, info: UploadInfo) -> None: ...


def reads_a_form(title: Annotated[str, Form()]) -> str:
    return title


class Greedy(BaseTask):
    """A dependency that wants the body."""

    def __init__(self, image: Upload, title: Annotated[str, Depends(reads_a_form)]) -> None: ...


async def stray(task: Stray) -> None: ...


async def greedy(task: Greedy) -> None: ...


async def greedy_function(task: Picture, title: Annotated[str, Depends(reads_a_form)]) -> None: ...


class Body(BaseModel):
    """A JSON body."""


async def json_beside_an_upload(task: Picture, body: Body) -> None: ...


@pytest.mark.parametrize(
    ("function", "words"),
    [(stray, "image_info"), (greedy, "title"), (greedy_function, "title"), (json_beside_an_upload, "body")],
)
def test_declarations_that_cannot_work(function: Any, words: str) -> None:
    """The message says what to do."""
    with pytest.raises(ConfigurationError, match=words):
        flow_endpoint(forked(Add()))(function)


# The schema


async def test_the_schema_of_a_form() -> None:
    """It names files and fields, and puts models among the components."""
    flow, labels = forked(Compare()), forked(Pass(), name="labels")
    app = pair_app(flow)
    Aqueduct(flow, labels).install(app)

    @app.post("/label")
    @flow_endpoint(labels, media_type="image/png")
    async def label(task: Labelled) -> None: ...

    paths = app.openapi()["paths"]
    body = paths["/pair"]["post"]["requestBody"]
    assert list(body["content"]) == ["multipart/form-data"]
    schema = body["content"]["multipart/form-data"]["schema"]
    assert schema["required"] == ["front", "back", "title"]
    assert set(schema["properties"]) == {"front", "back", "title", "numbers", "note"}
    file = {"type": "string", "contentMediaType": "application/octet-stream", "minLength": 1}
    assert schema["properties"]["front"] == file
    assert [parameter["name"] for parameter in paths["/pair"]["post"]["parameters"]] == ["quality"]
    assert {"400", "408", "413", "415", "422", "503", "504"} <= set(paths["/pair"]["post"]["responses"])
    content = paths["/label"]["post"]["requestBody"]["content"]
    assert list(content) == ["multipart/form-data"]
    assert content["multipart/form-data"]["encoding"]["image"] == {"contentType": "image/png"}
    assert set(content["multipart/form-data"]["schema"]["properties"]) == {"image", "mask", "text", "size"}
