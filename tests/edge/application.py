"""What every server serves: each kind of body and of answer, as a FastAPI and as a plain Starlette application."""

from __future__ import annotations

import functools
import gc
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.responses import EventSourceResponse, StreamingResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from fastapi_aqueduct import (
    Aqueduct,
    Flow,
    FlowStep,
    FlowStream,
    SharedResponse,
    UploadLimits,
    cancel_on_disconnect,
    flow_endpoint,
)

from ..asgi.edge_handlers import Pair, Pixels
from ..asgi.handlers import Held, HeldPicture, Tick, Ticks
from ..asgi.json_handlers import Text
from ..asgi.support import taken
from ..support import blocks
from .pipeline import Everything, Parcel

LIMIT = 4 << 20
"""Bytes that a body may have."""

STALL = 0.5
"""Seconds in which a client must take something of an answer."""

QUEUE_SIZE = 4
"""Tasks that may wait for the only worker."""

# So that the log says why something was refused.
logging.basicConfig(level=logging.INFO)

flow = Flow(FlowStep(Everything()), queue_size=QUEUE_SIZE, memory_limit=256 << 20)
ticking = Flow(FlowStep(Tick(), concurrency=8), name="ticking")
aqueduct = Aqueduct(flow, ticking, server_timing=True)
app = FastAPI(lifespan=aqueduct.lifespan, max_body_size=LIMIT)
plain = Starlette(lifespan=aqueduct.lifespan)


async def inspect(task: Parcel) -> dict[str, Any]:
    return task.report


async def pair(task: Pair) -> list[Any]:
    return task.report


async def join(task: Text) -> str:
    return task.text


async def hold(task: HeldPicture) -> str:
    return "through"


async def wait(task: Held) -> str:
    return "through"


async def pixels(task: Pixels) -> SharedResponse:
    return SharedResponse(task.array)


async def stalled(task: Pixels) -> SharedResponse:
    return SharedResponse(task.array, stall_timeout=STALL)


async def ticks(task: Ticks, lines: FlowStream[str]) -> AsyncIterator[str]:
    async for line in lines:
        yield line


async def ticks_to_socket(socket: WebSocket) -> None:
    await socket.accept()
    gate, name, at = (socket.query_params[key] for key in ("gate", "name", "at"))
    with suppress(WebSocketDisconnect):
        async with cancel_on_disconnect(socket):
            async for line in ticking.stream(Ticks(Path(gate), name, at=int(at)), 30):
                await socket.send_text(line)


async def figures(request: Request) -> JSONResponse:
    """Tell what the flow holds and has done, and how many streams are open."""
    statistics = flow.statistics()
    names = ("in_flight", "completed", "cancelled", "timed_out")
    counts = {name: getattr(statistics, name) for name in names}
    queued = statistics.steps[0].queued
    memory = {"blocks": blocks(flow), "taken": taken(flow), "receiving": statistics.arena.receiving}
    return JSONResponse({**counts, "queued": queued, **memory, "streams": ticking.statistics().in_flight})


def answering(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a response of what a function returns, as FastAPI does by itself."""

    @functools.wraps(function)
    async def answer(**arguments: Any) -> Response:
        result = await function(**arguments)
        return result if isinstance(result, Response) else JSONResponse(result)

    return answer


def add(methods: list[str], path: str, function: Callable[..., Any], **options: Any) -> None:
    """Add an endpoint to both applications."""
    app.add_api_route(path, flow_endpoint(flow, **options)(function), methods=methods)
    plain.add_route(path, flow_endpoint(flow, max_body_size=LIMIT, **options)(answering(function)), methods=methods)


add(["POST"], "/inspect", inspect, accept_gzip=True)
add(["POST"], "/image", inspect, media_type="image/*")
add(["POST"], "/unfinished", inspect)  # of one test: the log says later, too, how often others were refused
add(["POST"], "/patient", inspect, upload_limits=UploadLimits(idle_timeout=0.2))
add(["POST"], "/pair", pair)
add(["POST"], "/join", join)
add(["POST"], "/hold", hold, timeout_sec=30)
add(["POST"], "/late", hold, timeout_sec=0.1)
add(["GET"], "/wait", wait, timeout_sec=30)
add(["GET", "HEAD"], "/pixels", pixels)
add(["GET", "HEAD"], "/stalled", stalled)
for path, kind in {"/events": EventSourceResponse, "/lines": None, "/pieces": StreamingResponse}.items():
    options: dict[str, Any] = {} if kind is None else {"response_class": kind}
    app.get(path, **options)(flow_endpoint(ticking, timeout_sec=30)(ticks))
app.websocket("/socket")(ticks_to_socket)
for application in (app, plain):
    application.add_route("/figures", figures)

# A request for the figures collects garbage; the objects that exist by now are never garbage.
gc.freeze()
