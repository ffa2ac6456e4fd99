"""The schema says what an endpoint takes and what it may answer."""

from __future__ import annotations

from collections.abc import AsyncIterable
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Form
from fastapi.responses import EventSourceResponse
from pydantic import BaseModel

from fastapi_aqueduct import Aqueduct, Flow, FlowStream, flow_endpoint
from fastapi_aqueduct.testing import client

from ..support import forked
from .handlers import Add, Adder, Picture, Sum

FILE = {"type": "string", "contentMediaType": "application/octet-stream", "minLength": 1}
BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/octet-stream": {"schema": FILE},
        "multipart/form-data": {
            "schema": {"type": "object", "properties": {"image": FILE}, "required": ["image"]},
        },
    },
}


def make_router(flow: Flow) -> APIRouter:
    inner = APIRouter(prefix="/inner")

    @inner.post("/total/{name}", responses={413: {"description": "of the user"}})
    @flow_endpoint(flow)
    async def total(task: Picture, name: str) -> int:
        """Add up the bytes."""
        return task.total

    outer = APIRouter(prefix="/v1")
    outer.include_router(inner)
    return outer


def check(schema: dict[str, Any]) -> None:
    operation = schema["paths"]["/v1/inner/total/{name}"]["post"]
    assert operation["requestBody"] == BODY
    assert operation["description"] == "Add up the bytes."
    assert set(operation["responses"]) == {"200", "400", "408", "413", "415", "422", "503", "504"}
    assert operation["responses"]["413"] == {"description": "of the user"}
    assert [parameter["name"] for parameter in operation["parameters"]] == ["name", "factor"]


async def test_exported_and_served() -> None:
    """With `install` it is complete before the application runs; nested routers and routes added later count."""
    flow = forked(Add())
    app = FastAPI()
    Aqueduct(flow).install(app)
    app.openapi()
    app.include_router(make_router(flow))
    check(app.openapi())
    check(app.openapi())
    async with client(app) as http:
        check((await http.get("/openapi.json")).json())


async def test_served_under_the_lifespan() -> None:
    """The lifespan alone completes what is served, also by applications mounted on this one."""
    flow = forked(Add())
    app, inner = FastAPI(lifespan=Aqueduct(flow).lifespan), FastAPI()
    app.include_router(make_router(flow))
    inner.include_router(make_router(flow))
    app.mount("/mounted", inner)
    app.openapi()
    async with client(app) as http:
        check((await http.get("/openapi.json")).json())
        check((await http.get("/mounted/openapi.json")).json())


def test_a_task_without_an_upload() -> None:
    """It has no body, and the answers that any task has."""
    flow = forked(Adder())
    app = FastAPI()
    Aqueduct(flow).install(app)

    @app.get("/sum")
    @flow_endpoint(flow)
    async def answer(task: Sum) -> int:
        return task.result

    operation = app.openapi()["paths"]["/sum"]["get"]
    assert "requestBody" not in operation
    assert set(operation["responses"]) == {"200", "422", "503", "504"}


def test_the_errors_of_an_event_stream_are_no_events() -> None:
    """FastAPI gives each model in `responses` the media type of the response class."""
    flow = forked(Add())
    app = FastAPI()
    Aqueduct(flow).install(app)

    class Problem(BaseModel):
        detail: str

    @app.post("/rows", response_class=EventSourceResponse, responses={415: {"model": Problem}})
    @flow_endpoint(flow)
    async def rows(task: Picture, items: FlowStream[int]) -> AsyncIterable[int]:
        async for item in items:
            yield item

    app.openapi()
    operation = app.openapi()["paths"]["/rows"]["post"]
    assert operation["requestBody"] == BODY
    responses = operation["responses"]
    assert responses["200"]["content"].keys() == {"text/event-stream"}
    assert responses["415"]["content"] == {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    assert responses["422"]["content"].keys() == responses["503"]["content"].keys() == {"application/json"}


def test_an_upload_beside_a_required_field_is_a_part_of_a_form() -> None:
    """A raw body cannot bring the field, so it is not listed; beside an optional field it is."""
    flow = Flow(Add())
    app = FastAPI()
    Aqueduct(flow).install(app)

    @app.post("/required")
    @flow_endpoint(flow)
    async def required(task: Picture, title: Annotated[str, Form()]) -> int:
        return task.total

    @app.post("/optional")
    @flow_endpoint(flow)
    async def optional(task: Picture, title: Annotated[str, Form()] = "") -> int:
        return task.total

    paths = app.openapi()["paths"]
    assert set(paths["/required"]["post"]["requestBody"]["content"]) == {"multipart/form-data"}
    assert set(paths["/optional"]["post"]["requestBody"]["content"]) == set(BODY["content"])
