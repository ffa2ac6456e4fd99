"""fastapi_aqueduct behind routes that stream."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI
from fastapi.datastructures import Default
from fastapi.responses import EventSourceResponse, JSONResponse
from starlette.responses import StreamingResponse

from fastapi_aqueduct import Aqueduct, Flow, FlowStream, flow_endpoint

from .serving import serve
from .streaming_flows import FLOWS, Generation
from .token_model import Prompt

TIMEOUT = 30.0


def make_app(way: str, flow: Flow) -> FastAPI:
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    if way == "plain":

        async def events(task: Generation) -> AsyncIterator[bytes]:
            async for token in flow.stream(task, timeout_sec=TIMEOUT):
                yield f"data: {token}\n\n".encode()

        @app.post("/work")
        async def plain(prompt: Prompt) -> StreamingResponse:
            return StreamingResponse(events(Generation(prompt)), media_type="text/event-stream")

    else:

        @app.post("/work", response_class=RESPONSES[way])
        @flow_endpoint(flow, timeout_sec=TIMEOUT)
        async def endpoint(task: Generation, tokens: FlowStream[str]) -> AsyncIterator[str]:
            async for token in tokens:
                yield token

    return app


RESPONSES: dict[str, Any] = {"events": EventSourceResponse, "lines": Default(JSONResponse)}
"""The class of response that makes FastAPI send server-sent events, and the default, which is JSON lines."""


def main(name: str, port: int) -> None:
    work, _, way = name.partition("-")
    serve(make_app(way, FLOWS[work]()), port)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
