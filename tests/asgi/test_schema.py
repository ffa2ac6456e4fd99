"""Endpoints with every kind of body do what the OpenAPI schema says of them, whatever they are sent."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import pytest
from fastapi import FastAPI, Form, Header

from fastapi_aqueduct import Aqueduct, Flow, FlowDep, FlowTask, flow_endpoint

from ..schema import check_service
from ..support import blocks, eventually, forked
from .edge_handlers import Described, Label, Labelled, Pair, Pass
from .handlers import Picture, Sum
from .json_handlers import Text
from .support import serving, taken

# FastAPI takes an empty field of a form for none, one value for a list and, in JSON, false for 0. And a file that
# schemathesis takes for one of the wrong type is as good as any other when it has become bytes. Where a part of a form
# has types, schemathesis sends some without a file name, which are no files.
SETTINGS = """
    [[operations]]
    include-path = ["/json", "/label", "/pair"]
    checks.positive_data_acceptance.expected-statuses = ["2xx", "422"]
    checks.negative_data_rejection.expected-statuses = ["2xx", "400", "405", "415", "422"]

    [[operations]]
    include-path = ["/gzip", "/look"]
    checks.positive_data_acceptance.expected-statuses = ["2xx", "422"]
    checks.negative_data_rejection.expected-statuses = ["2xx", "400", "404", "405", "415", "422"]

    [[operations]]
    include-path = ["/by_hand", "/total/{name}"]
    checks.negative_data_rejection.expected-statuses = ["2xx", "400", "404", "405", "415", "422"]
"""


def make_app(flow: Flow) -> FastAPI:
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.get("/sum")
    @flow_endpoint(flow)
    async def add(task: Sum) -> int:
        return task.result

    @app.post("/json")
    @flow_endpoint(flow)
    async def join(task: Text) -> str:
        return task.text

    @app.put("/total/{name}")
    @flow_endpoint(flow)
    async def total(task: Picture, name: str, x_thing: Annotated[str, Header(max_length=5)] = "") -> int:
        return task.total

    @app.post("/by_hand")
    async def by_hand(task: Annotated[Picture, FlowTask()], flow: FlowDep) -> int:
        await flow.process(task)
        return task.total

    @app.post("/look")
    @flow_endpoint(flow, media_type="image/*")
    async def look(task: Described) -> list[Any]:
        return list(task.seen)

    @app.post("/gzip")
    @flow_endpoint(flow, media_type=["image/png", "text/plain"], accept_gzip=True)
    async def unzip(task: Picture) -> int:
        return task.total

    @app.post("/label")
    @flow_endpoint(flow)
    async def label(task: Labelled) -> Label:
        return task.label

    @app.post("/pair")
    @flow_endpoint(flow)
    async def pair(task: Pair, note: Annotated[str, Form(max_length=3)] = "") -> list[Any]:
        return [*task.report, note]

    return app


async def check(examples: int) -> None:
    flow = forked(Pass())
    async with serving(make_app(flow)) as http:
        url = str(http.base_url)
        verdict = await asyncio.to_thread(check_service, url, examples, "tests.asgi.media_data", SETTINGS)
        assert verdict.holds, verdict.output
        assert verdict.statuses.keys() >= {200, 405, 422} and max(verdict.statuses) < 500
        await eventually(lambda: blocks(flow) == taken(flow) == 0)


async def test_every_answer_is_as_documented() -> None:
    await check(5)


@pytest.mark.long
async def test_every_answer_is_as_documented_for_long() -> None:
    await check(500)
