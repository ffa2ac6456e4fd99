"""Kinds of endpoint that take the same upload, in a process without the garbage collector."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from fastapi_aqueduct import (
    Aqueduct,
    Flow,
    FlowDep,
    FlowStep,
    FlowStream,
    FlowTask,
    SharedResponse,
    UploadLimits,
    flow_endpoint,
)

from ..asgi.support import taken
from .pipeline import Mapped, Picture, Suffer

logging.basicConfig(level=logging.INFO)

LIMITS = UploadLimits(idle_timeout=1, max_body_size=1 << 20)
LATE = 0.1
"""Seconds that a task has on a path that is to be late."""

# A worker for each death: what is replaced waits longer each time.
flow = Flow(FlowStep(Suffer(), nprocs=6, max_retries=0), memory_limit=256 << 20)
app = FastAPI(lifespan=Aqueduct(flow, upload_limits=LIMITS).lifespan)


class Cancelling:
    """Ends requests from outside, as a middleware with a time limit does.

    Args:
        app: What it is around.
    """

    scopes: dict[str, asyncio.Timeout] = {}

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = dict(scope.get("headers", ())).get(b"x-cancel")
        if name is None:
            await self._app(scope, receive, send)
            return
        async with asyncio.timeout(None) as limit:
            self.scopes[name.decode()] = limit
            try:
                await self._app(scope, receive, send)
            finally:
                del self.scopes[name.decode()]


app.add_middleware(Cancelling)


@app.exception_handler(Mapped)
async def explain(request: Request, exc: Mapped) -> JSONResponse:
    return JSONResponse({"detail": str(exc)}, 418)


async def result(task: Picture, end: str) -> Any:
    """Do what an endpoint does with its finished task."""
    if end == "raise":
        raise ZeroDivisionError
    if end == "refuse":
        raise HTTPException(409)
    if end == "shared":
        return SharedResponse(task.array)
    if end == "broken":
        return StreamingResponse(_break(task))
    return object() if end == "unfit" else task.size


async def _break(task: Picture) -> AsyncIterator[bytes]:
    yield bytes(task.image[:10])
    raise ZeroDivisionError


async def nothing() -> int:
    return 0


async def short(task: Picture, end: str = "", strict: int = 0) -> Any:
    return await result(task, end)


async def long(task: Picture, zero: Annotated[int, Depends(nothing)], end: str = "", strict: int = 0) -> Any:
    return await result(task, end)


async def plain(task: Picture, end: str = "", strict: int = 0) -> Any:
    return await result(task, end)


async def streamed(task: Picture, items: FlowStream[Any], end: str = "", strict: int = 0) -> AsyncIterator[Any]:
    async for _ in items:
        pass
    if end == "broken":
        yield len(task.image)
        raise ZeroDivisionError
    found = await result(task, end)
    yield bytes(task.array).hex() if isinstance(found, SharedResponse) else found


def by_hand(timeout: float) -> Any:
    async def dependent(task: Annotated[Picture, FlowTask()], flow: FlowDep, end: str = "", strict: int = 0) -> Any:
        await flow.process(task, timeout)
        return await result(task, end)

    return dependent


def own_task(timeout: float) -> Any:
    async def own(request: Request, flow: FlowDep, end: str = "", strict: int = 0) -> Any:
        task = await _make(request)
        await flow.process(task, timeout)
        return await result(task, end)

    return own


def bare(timeout: float) -> Any:
    async def answer(request: Request) -> Response:
        task = await _make(request)
        await flow.process(task, timeout)
        end = request.query_params.get("end", "")
        found = await result(task, end)
        return found if isinstance(found, Response) else JSONResponse(found)

    return answer


async def _make(request: Request) -> Picture:
    body = await request.body()
    query = request.query_params
    gate = Path(query["gate"]) if "gate" in query else None
    return Picture(body, query.get("fate", "answer"), gate, query.get("name", "gate"))  # type: ignore[arg-type]


KINDS = ("short", "long", "plain", "streamed", "dependent", "own", "bare")
"""The kinds of endpoint: `flow_endpoint` on the fast path, by FastAPI's own handler (there is a dependency),
on a plain Starlette route, and with a stream; `FlowTask` with `FlowDep`; `FlowDep` with a task that the endpoint makes;
and a plain Starlette route that calls the flow and has nothing else of the package."""


for prefix, timeout in (("", 30.0), ("/late", LATE)):
    decorated = flow_endpoint(flow, timeout_sec=timeout, accept_gzip=True)
    app.post(f"{prefix}/short", response_model=int)(decorated(short))
    app.post(f"{prefix}/long", response_model=int)(decorated(long))
    app.router.routes.append(Route(f"{prefix}/plain", decorated(plain), methods=["POST"]))
    app.post(f"{prefix}/streamed")(decorated(streamed))
    app.post(f"{prefix}/dependent", response_model=int)(by_hand(timeout))
    app.post(f"{prefix}/own", response_model=int)(own_task(timeout))
    app.router.routes.append(Route(f"{prefix}/bare", bare(timeout), methods=["POST"]))


@app.get("/figures")
async def figures() -> dict[str, int]:
    """Tell what the flow holds, as it is: nothing is collected."""
    statistics = flow.statistics()
    return {
        "blocks": statistics.arena.blocks,
        "taken": taken(flow),
        "receiving": statistics.arena.receiving,
        "in_flight": statistics.in_flight,
        "workers": statistics.steps[0].ready_workers,
    }


@app.post("/cancel")
async def cancel(name: str) -> bool:
    """End a request; tell whether there is one of that name."""
    limit = Cancelling.scopes.get(name)
    if limit is not None:
        limit.reschedule(0)
    return limit is not None


@app.post("/collect")
async def collect() -> int:
    """Free what a test that has failed has left."""
    return gc.collect()


gc.disable()
