"""FastAPI and an executor whose workers do all that the steps of the example do, each with models of its own."""

from __future__ import annotations

import asyncio
import multiprocessing
import sys
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from pydantic import BaseModel

from example_app.pipeline import Decode, Detect, Line, OcrTask, Recognise, flow
from fastapi_aqueduct import BaseTaskHandler

from .serving import serve

WORKERS = sum(step.nprocs for step in flow.statistics().steps)
"""As many as the example has."""

# The models are not made for several threads at a time.
local = threading.local()


class Text(BaseModel):
    width: int
    height: int
    lines: list[Line]


def load() -> None:
    handlers: list[BaseTaskHandler] = [Decode(), Detect(), Recognise()]
    for handler in handlers:
        handler.on_start()
    local.handlers = handlers


def read(picture: bytes) -> Text:
    task = OcrTask(memoryview(picture))
    for handler in local.handlers:
        handler.handle(task)
    return Text(width=task.width, height=task.height, lines=task.lines)


def make_executor(kind: str) -> Executor:
    if kind == "threads":
        return ThreadPoolExecutor(WORKERS, initializer=load)
    return ProcessPoolExecutor(WORKERS, multiprocessing.get_context("spawn"), initializer=load)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    with make_executor(app.state.kind) as app.state.executor:
        yield


async def ocr(request: Request) -> Text:
    picture = await request.body()
    return await asyncio.get_running_loop().run_in_executor(request.app.state.executor, read, picture)


async def ready() -> None:
    pass


def main(kind: str, port: int) -> None:
    app = FastAPI(lifespan=lifespan)
    app.state.kind = kind
    app.post("/ocr")(ocr)
    app.get("/ready")(ready)
    serve(app, port)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
