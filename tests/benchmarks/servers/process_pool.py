"""FastAPI and a ProcessPoolExecutor of one process for each step."""

from __future__ import annotations

import asyncio
import multiprocessing
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from pydantic import BaseModel

from . import work
from .serving import serve

pools: list[ProcessPoolExecutor] = []


class Item(BaseModel):
    value: int


def copy(value: int) -> int:
    return value


def forward(array: work.Array) -> work.Array:
    return array


async def run(step: int, function: Callable[..., Any], argument: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(pools[step], function, argument)


async def noop(item: Item) -> Item:
    return Item(value=await run(0, copy, item.value))


async def upload(request: Request) -> Item:
    return Item(value=await run(0, work.touch, await request.body()))


async def steps(item: Item) -> Item:
    array = await run(0, work.make_array, item.value)
    array = await run(1, forward, array)
    return Item(value=await run(2, work.last_of, array))


ENDPOINTS: dict[str, Callable[..., Any]] = {"noop": noop, "upload": upload, "steps-3": steps}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        for _ in range(app.state.steps):
            pools.append(stack.enter_context(ProcessPoolExecutor(1, mp_context=context)))
        yield


def main(name: str, port: int) -> None:
    app = FastAPI(lifespan=lifespan)
    app.state.steps = 3 if name == "steps-3" else 1
    app.post("/work")(ENDPOINTS[name])
    serve(app, port)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
