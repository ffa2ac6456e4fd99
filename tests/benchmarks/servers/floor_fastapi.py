"""FastAPI that does the work itself: the floor, no worker at all."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel

from . import work
from .serving import serve

OCTETS = "application/octet-stream"

app = FastAPI()


class Item(BaseModel):
    value: int


async def noop(item: Item) -> Item:
    return Item(value=item.value)


async def upload(request: Request) -> Item:
    return Item(value=len(await request.body()))


async def stream(request: Request) -> Item:
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
    return Item(value=size)


async def steps(item: Item) -> Item:
    return Item(value=work.last_of(work.make_array(item.value)))


async def response(request: Request) -> Response:
    return Response(request.app.state.array.tobytes(), media_type=OCTETS)


async def response_bytes(request: Request) -> Response:
    return Response(request.app.state.bytes, media_type=OCTETS)


ENDPOINTS: dict[str, Callable[..., Any]] = {
    "noop": noop,
    "upload": upload,
    "stream": stream,
    "steps": steps,
    "response": response,
    "response-bytes": response_bytes,
}


def main(name: str, port: int) -> None:
    if name == "response":
        app.state.array = work.make_array(1, work.LARGE_ARRAY_SIZE)
    elif name == "response-bytes":
        app.state.bytes = work.make_array(1, work.LARGE_ARRAY_SIZE).tobytes()
    app.post("/work")(ENDPOINTS[name])
    serve(app, port)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
