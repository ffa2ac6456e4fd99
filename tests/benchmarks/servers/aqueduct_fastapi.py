"""The package ``aqueduct`` behind FastAPI, with its own integration."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any

from aqueduct.integrations.fastapi import AppIntegrator, get_flow
from fastapi import Depends, FastAPI, Request
from pydantic import BaseModel

from .aqueduct_flows import FLOWS, TIMEOUT, Arrays, Body, Value
from .serving import serve

GivenFlow = Annotated[Any, Depends(get_flow())]


class Item(BaseModel):
    value: int


async def value(item: Item, flow: GivenFlow) -> Item:
    task = Value(item.value)
    await flow.process(task, TIMEOUT)
    return Item(value=task.result)


async def steps(item: Item, flow: GivenFlow) -> Item:
    task = Arrays(item.value)
    await flow.process(task, TIMEOUT)
    return Item(value=task.result)


async def upload(request: Request, flow: GivenFlow) -> Item:
    task = Body()
    task.body = await request.body()
    task.share_value("body")
    await flow.process(task, TIMEOUT)
    return Item(value=task.result)


ENDPOINTS: dict[str, Callable[..., Any]] = {"noop": value, "batching": value, "steps-3": steps, "upload": upload}


def main(work: str, port: int) -> None:
    app = FastAPI()
    app.post("/work")(ENDPOINTS[work])
    AppIntegrator(app).add_flow(FLOWS[work]())
    serve(app, port)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
