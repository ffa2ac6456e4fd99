"""FastAPI and a bare exchange with one process for each step: the floor of packages that run work in processes."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

from fastapi import FastAPI
from pydantic import BaseModel

from ..exchange import Exchange
from .serving import serve

PROCESSES = {"noop": 1, "steps-1": 1, "steps-2": 2, "steps-3": 3}


class Item(BaseModel):
    value: int


exchanges: list[Exchange] = []


async def work(item: Item) -> Item:
    value = item.value
    for exchange in exchanges:
        value = await exchange.call(value)
    return Item(value=value)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    with ExitStack() as stack:
        exchanges.extend(stack.enter_context(Exchange()) for _ in range(app.state.processes))
        yield


def main(name: str, port: int) -> None:
    app = FastAPI(lifespan=lifespan)
    app.state.processes = PROCESSES[name]
    app.post("/work")(work)
    serve(app, port)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
