"""Context variables of requests in workers: from middleware and dependencies, for each kind of endpoint."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from fastapi_aqueduct import Aqueduct, BaseTask, BaseTaskHandler, FlowDep, FlowStep, FlowStream, flow_endpoint
from fastapi_aqueduct.testing import client

from ..support import forked

REQUEST: ContextVar[str] = ContextVar("request")
USER: ContextVar[str] = ContextVar("user")


@dataclass
class Look(BaseTask):
    """Gets what a worker sees."""

    seen: str = field(default="", init=False)


class Looking(BaseTaskHandler):
    """Yields what it sees."""

    def handle(self, task: Look) -> Any:
        task.seen = f"{REQUEST.get('none')}-{USER.get('none')}"
        yield task.seen


class SetRequest:
    """Plain ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            REQUEST.set(scope["path"])
        await self.app(scope, receive, send)


async def set_user(user: str) -> None:
    USER.set(user)


User = Annotated[None, Depends(set_user)]


async def test_variables_of_a_request_reach_its_workers() -> None:
    flow = forked(FlowStep(Looking(), concurrency=4), context=[REQUEST, USER])
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)
    app.add_middleware(SetRequest)

    @app.middleware("http")
    async def pass_on(request: Request, call_next: Callable[[Request], Awaitable[Any]]) -> Any:
        return await call_next(request)

    @app.post("/plain")
    @flow_endpoint(flow)
    async def plain(task: Look) -> str:
        return task.seen

    @app.post("/dependency")
    @flow_endpoint(flow)
    async def dependency(task: Look, user: User) -> str:
        return task.seen

    @app.post("/stream")
    @flow_endpoint(flow)
    async def stream(task: Look, items: FlowStream[str], user: User) -> AsyncIterator[str]:
        async for item in items:
            yield item

    @app.post("/blocking")
    def blocking(flow: FlowDep, user: User) -> str:
        return flow.process_blocking(Look()).seen

    @app.post("/response")
    async def response(flow: FlowDep, user: User) -> StreamingResponse:
        return StreamingResponse(item async for item in flow.stream(Look()))

    async with client(app) as http:
        assert (await http.post("/plain")).json() == "/plain-none"
        assert (await http.post("/dependency?user=eve")).json() == "/dependency-eve"
        assert "/stream-eve" in (await http.post("/stream?user=eve")).text
        assert (await http.post("/blocking?user=eve")).json() == "/blocking-eve"
        assert (await http.post("/response?user=eve")).text == "/response-eve"
