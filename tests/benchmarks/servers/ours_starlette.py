"""fastapi_aqueduct behind plain Starlette routes."""

from __future__ import annotations

import json
import sys

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from fastapi_aqueduct import Aqueduct, Flow, flow_endpoint

from .pipeline import FLOWS, ItemValue, Value
from .serving import serve

ENDPOINT = "-endpoint"
"""At the end of the name of a work whose route is made by flow_endpoint."""


def make_app(work: str, flow: Flow) -> Starlette:
    async def process(request: Request) -> JSONResponse:
        task = Value(json.loads(await request.body())["value"])
        await flow.process(task)
        return JSONResponse({"value": task.result})

    @flow_endpoint(flow)
    async def endpoint(task: ItemValue) -> dict[str, int]:
        return {"value": task.result}

    route = Route("/work", endpoint if work.endswith(ENDPOINT) else process, methods=["POST"])
    return Starlette(routes=[route], lifespan=Aqueduct(flow).lifespan)


def main(work: str, port: int) -> None:
    serve(make_app(work, FLOWS[work.removesuffix(ENDPOINT)]()), port)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
