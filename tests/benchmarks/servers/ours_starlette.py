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


def make_app(flow: Flow) -> Starlette:
    async def process(request: Request) -> JSONResponse:
        task = Value(json.loads(await request.body())["value"])
        await flow.process(task)
        return JSONResponse({"value": task.result})

    @flow_endpoint(flow)
    async def endpoint(task: ItemValue) -> JSONResponse:
        return JSONResponse({"value": task.result})

    routes = [Route("/work", process, methods=["POST"]), Route("/work/endpoint", endpoint, methods=["POST"])]
    return Starlette(routes=routes, lifespan=Aqueduct(flow).lifespan)


def main(work: str, port: int) -> None:
    serve(make_app(FLOWS[work]()), port)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
