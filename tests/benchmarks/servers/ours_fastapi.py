"""fastapi_aqueduct behind FastAPI routes."""

from __future__ import annotations

import sys

from fastapi import FastAPI

from fastapi_aqueduct import Aqueduct, Flow, SharedResponse, flow_endpoint

from .pipeline import FLOWS, Arrays, Body, Item, ItemValue
from .serving import serve


def make_app(work: str, flow: Flow) -> FastAPI:
    app = FastAPI(lifespan=Aqueduct(flow, adjust_malloc=not work.endswith("-unadjusted")).lifespan)
    name = work.partition("-")[0]

    if name in ("noop", "batching"):

        @app.post("/work")
        @flow_endpoint(flow)
        async def value(task: ItemValue) -> Item:
            return Item(value=task.result)

    elif name == "upload":

        @app.post("/work")
        @flow_endpoint(flow)
        async def upload(task: Body) -> Item:
            return Item(value=task.result)

    elif name == "steps":

        @app.post("/work")
        @flow_endpoint(flow)
        async def steps(task: Arrays) -> Item:
            return Item(value=task.result)

    else:

        @app.post("/work", response_class=SharedResponse)
        @flow_endpoint(flow)
        async def response(task: Arrays) -> SharedResponse:
            return SharedResponse(task.array)

    return app


def main(work: str, port: int) -> None:
    serve(make_app(work, FLOWS[work]()), port)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
