"""An application factory whose annotations are texts, which name what only the factory knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI
from pydantic import BaseModel

from fastapi_aqueduct import Aqueduct, Flow, flow_endpoint

if TYPE_CHECKING:
    from decimal import Decimal


def create_app() -> FastAPI:
    """Make an application as many do: everything inside a function."""
    from fastapi import Query

    from .tasks import Read, Scan

    class Answer(BaseModel):
        lines: list[str]

    flow = Flow(Read())
    limit = Query(ge=1)
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.post("/scan")
    @flow_endpoint(flow)
    async def scan(task: Scan, copies: Annotated[int, limit] = 1) -> Answer:
        return Answer(lines=task.lines * copies)

    @app.post("/checked", response_model=Answer)
    @flow_endpoint(flow)
    async def checked(task: Annotated[Scan, "said for readers"]) -> Decimal | Any:
        return {"lines": task.lines}

    return app


def endpoint_of_unknown(flow: Flow) -> Any:
    """Make an endpoint whose task only the type checker knows."""

    async def unknown(task: Decimal) -> None: ...

    return flow_endpoint(flow)(unknown)
