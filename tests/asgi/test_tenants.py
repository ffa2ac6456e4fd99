"""Endpoints that say whose a task is: the field is set before the task is admitted and before the body is read."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterable
from pathlib import Path
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI, Header, HTTPException
from fastapi.responses import JSONResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fastapi_aqueduct import (
    Aqueduct,
    ConfigurationError,
    FairShare,
    Flow,
    FlowDep,
    FlowStream,
    FlowTask,
    Job,
    Jobs,
    JobStatus,
    TaskField,
    Upload,
    flow_endpoint,
)
from fastapi_aqueduct.testing import client, inline

from ..handlers import Gate
from ..support import engine_of, eventually, forked
from .support import Connection, serving
from .tenant_handlers import Own, Plain, Sheet, Tell, TellInItems


def api_key(x_key: Annotated[str, Header()]) -> str:
    if x_key == "wrong":
        raise HTTPException(403)
    return f"owner of {x_key}"


def plan_of(x_plan: Annotated[int, Header()] = 0) -> int:
    return x_plan


Tenant = Annotated[str, Depends(api_key), TaskField()]
Plan = Annotated[int, Depends(plan_of), TaskField()]


def application(flow: Flow, items: Flow | None = None) -> FastAPI:
    app = FastAPI(lifespan=Aqueduct(flow, *([items] if items else [])).lifespan)

    @app.post("/plain")
    @flow_endpoint(flow, timeout_sec=60)
    async def plain(task: Plain, tenant: Tenant, priority: Plan) -> str:
        assert tenant == vars(task)["tenant"] and task.priority == priority
        return task.told

    @app.post("/own")
    @flow_endpoint(flow, timeout_sec=60)
    async def own(task: Own, tenant: Tenant) -> str:
        return task.told

    @app.post("/sheet")
    @flow_endpoint(flow, timeout_sec=60)
    async def sheet(task: Sheet, tenant: Tenant, priority: Plan) -> str:
        return task.told

    @app.post("/header")
    @flow_endpoint(flow, timeout_sec=60)
    async def header(task: Own, tenant: Annotated[str, Header(alias="x-key"), TaskField()]) -> str:
        return task.told

    if items is not None:

        @app.post("/items")
        @flow_endpoint(items)
        async def stream(task: Plain, names: FlowStream[str], tenant: Tenant) -> AsyncIterable[str]:
            async for name in names:
                yield name

        @app.post("/collected")
        @flow_endpoint(items)
        async def collected(task: Plain, names: FlowStream[str], tenant: Tenant) -> list[str]:
            return [name async for name in names]

    return app


class Scan(Sheet):
    """A task that takes its tenant from a dependency of its own."""

    def __init__(self, image: Upload, tenant: Tenant, gate: str = "") -> None:
        super().__init__(image, tenant, gate)


KEY = {"x-key": "k1"}


async def test_each_kind_of_endpoint_sets_the_fields() -> None:
    flow, items = forked(Tell(), queue_priorities=2), forked(TellInItems(), name="items")
    app = application(flow, items)
    with inline(flow), inline(items):
        async with client(app) as http:
            urgent = {**KEY, "x-plan": "1"}
            assert (await http.post("/plain", headers=urgent)).json() == "owner of k1 1"
            assert (await http.post("/plain", headers={**KEY, "x-plan": "7"})).json() == "owner of k1 7"
            assert (await http.post("/own", headers=KEY)).json() == "owner of k1 0"
            assert (await http.post("/own?tenant=other", headers=KEY)).json() == "owner of k1 0"
            assert (await http.post("/sheet?tenant=other", headers=urgent, content=b"x")).json() == "owner of k1 1"
            assert (await http.post("/header?tenant=other", headers=KEY)).json() == "k1 0"
            assert (await http.post("/items", headers=KEY)).text.split() == ['"owner', "of", 'k1"']
            assert (await http.post("/collected", headers=KEY)).json() == ["owner of k1"]
            assert (await http.post("/own", headers={"x-key": "wrong"})).status_code == 403
            assert (await http.post("/own")).status_code == 422


async def test_openapi_shows_the_refusal_of_tenants_over_their_share() -> None:
    fair, plain = forked(Tell(), fair=FairShare("tenant")), forked(Tell(), name="plain")
    app = application(fair)

    async def made(task: Plain) -> str:
        return task.told

    made.__annotations__["task"] = Annotated[Plain, FlowTask(fair)]  # a text could not name a local variable
    app.post("/made")(made)

    @app.post("/without")
    @flow_endpoint(plain)
    async def without(task: Plain, tenant: Tenant) -> str:
        return task.told

    with inline(fair), inline(plain):
        async with Aqueduct(fair, plain).lifespan(app):
            paths = app.openapi()["paths"]
    for path in ("/plain", "/sheet", "/made"):
        assert paths[path]["post"]["responses"]["429"]["headers"].keys() == {"Retry-After"}, path
    assert "429" not in paths["/without"]["post"]["responses"]


async def test_openapi_shows_what_the_dependency_takes_and_not_the_field() -> None:
    paths = application(forked(Tell())).openapi()["paths"]
    for path in ("/plain", "/own", "/sheet"):
        names = {parameter["name"] for parameter in paths[path]["post"]["parameters"]}
        assert "tenant" not in names and "priority" not in names and {"x-key", "gate"} <= names
    assert {parameter["name"] for parameter in paths["/header"]["post"]["parameters"]} == {"x-key", "gate"}


async def test_plain_routes_of_starlette_set_them_too() -> None:
    flow = forked(Tell())

    @flow_endpoint(flow)
    async def header(task: Own, tenant: Annotated[str, Header(alias="x-key"), TaskField()]) -> Response:
        return JSONResponse(task.told)

    app = Starlette(routes=[Route("/header", header, methods=["POST"])], lifespan=Aqueduct(flow).lifespan)
    with inline(flow):
        async with client(app) as http:
            assert (await http.post("/header?tenant=other", headers=KEY)).json() == "k1 0"


async def test_jobs_have_them_too(tmp_path: Path) -> None:
    flow = forked(Tell(), fair=FairShare("tenant"))
    jobs = Jobs(tmp_path / "jobs.db")
    app = FastAPI(lifespan=Aqueduct(flow, jobs=jobs).lifespan)

    @app.post("/sheets", status_code=202)
    @jobs.endpoint(flow)
    async def scan(job: Job[Sheet], tenant: Tenant) -> JobStatus:
        return job.status

    app.include_router(jobs.router, prefix="/jobs")
    with inline(flow):
        async with client(app) as http:
            found = await http.post("/sheets", headers={**KEY, "Idempotency-Key": "a"}, content=b"x")
            assert found.status_code == 202, found.text
            path = found.headers["location"]
            await http.get(f"{path}?wait=30")
            assert (await http.get(f"{path}/result")).json()["told"] == "owner of k1 0"
            again = await http.post("/sheets", headers={"x-key": "k2", "Idempotency-Key": "a"}, content=b"x")
            assert again.json()["id"] == found.json()["id"]


async def test_a_tenant_over_its_share_is_refused_before_its_body_is_read(tmp_path: Path) -> None:
    flow = forked(Tell(), fair=FairShare("tenant", queue_share=0.5), queue_size=4, queue_priorities=2)
    gate = Gate(tmp_path)
    async with serving(application(flow)) as http, contextlib.AsyncExitStack() as stack:
        stack.callback(gate.open)  # or a failed test would not end
        requests = [asyncio.create_task(http.post(f"/sheet?gate={tmp_path}", headers=KEY, content=b"x"))]
        await eventually(gate.is_entered)
        queue = engine_of(flow).dispatcher.stages[0].queue
        requests += [asyncio.create_task(http.post("/sheet", headers=KEY, content=b"x")) for _ in range(2)]
        await eventually(lambda: queue.count == 2)
        for path in ("/sheet", "/own", "/plain", "/header"):
            headers = ["x-key: k1" if path != "/header" else "x-key: owner of k1", "Content-Length: 1000000"]
            async with Connection(http) as connection:
                await connection.send(path, *headers)  # and no body
                head = await connection.read_head()
                assert head.startswith("HTTP/1.1 429 "), (path, head)
                assert "retry-after: 1\r\n" in head.lower()
        refused = await http.post("/own", headers=KEY)
        assert refused.json() == {"detail": "Too many of your requests are waiting; try again later."}
        others = [asyncio.create_task(http.post("/sheet", headers={"x-key": "k2"}, content=b"x"))]
        others.append(asyncio.create_task(http.post("/sheet", headers={**KEY, "x-plan": "1"}, content=b"x")))
        await eventually(lambda: queue.count == 4)  # another tenant, and another level
        gate.open()
        assert [(await request).status_code for request in requests + others] == [200] * 5
        assert (await http.post("/own", headers=KEY)).status_code == 200
    assert flow.refusals.by_reason() == {"tenant_over_share": 5}


async def test_a_field_of_the_task_itself_counts_before_the_body_too(tmp_path: Path) -> None:
    """Also with `FlowTask`, and for a function of the task that reads such a field."""
    flow = forked(Tell(), fair=FairShare(lambda task: task.tenant[-2:], queue_share=0.5), queue_size=2)

    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.post("/endpoint")
    @flow_endpoint(flow, timeout_sec=60)
    async def endpoint(task: Scan) -> str:
        return task.told

    @app.post("/task")
    async def with_task(task: Annotated[Scan, FlowTask()], flow: FlowDep) -> str:
        return (await flow.process(task, 60)).told

    with inline(flow):
        gate = Gate(tmp_path)
        async with serving(app) as http, contextlib.AsyncExitStack() as stack:
            stack.callback(gate.open)  # or a failed test would not end
            held = [asyncio.create_task(http.post(f"/endpoint?gate={tmp_path}", headers=KEY, content=b"x"))]
            await eventually(gate.is_entered)
            held.append(asyncio.create_task(http.post("/task", headers=KEY, content=b"x")))
            await eventually(lambda: engine_of(flow).dispatcher.stages[0].queue.count == 1)
            for path in ("/endpoint", "/task"):
                async with Connection(http) as connection:
                    await connection.send(path, "x-key: k1", "Content-Length: 1000000")
                    assert (await connection.read_head()).startswith("HTTP/1.1 429 ")
            gate.open()
            assert [(await request).json() for request in held] == ["owner of k1 0"] * 2


def test_what_cannot_be_a_field_is_refused_when_it_is_declared() -> None:
    flow = forked(Tell())
    with pytest.raises(ConfigurationError, match="cannot have the name `emit`"):

        @flow_endpoint(flow)
        async def hides(task: Plain, emit: Tenant) -> None: ...

    from fastapi import Form

    with pytest.raises(ConfigurationError, match="tenant is a field of a form, which is read after"):

        @flow_endpoint(flow)
        async def late(task: Sheet, tenant: Annotated[str, Form(), TaskField()]) -> None: ...


async def test_a_mark_that_nothing_reads_is_refused_at_the_start() -> None:
    flow = forked(Tell())
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.post("/own")
    async def own(request: Request, tenant: Tenant) -> None: ...

    with inline(flow), pytest.raises(ConfigurationError, match=r"own at /own: tenant has TaskField\(\)"):
        async with client(app):
            pass
