"""The package ``aqueduct`` behind aiohttp, its first home."""

from __future__ import annotations

import asyncio
import sys

import uvloop
from aiohttp import web
from aqueduct.integrations.aiohttp import AppIntegrator

from .aqueduct_flows import FLOWS, TIMEOUT, Arrays, Body, Value


def main(work: str, port: int) -> None:
    loop = uvloop.new_event_loop()
    # The flow asks for the loop of the thread, before that loop runs.
    asyncio.set_event_loop(loop)
    flow = FLOWS[work]()
    task_type = Arrays if work.startswith("steps") else Value

    async def value(request: web.Request) -> web.Response:
        task = task_type((await request.json())["value"])
        await flow.process(task, TIMEOUT)
        return web.json_response({"value": task.result})

    async def upload(request: web.Request) -> web.Response:
        task = Body()
        await task.share_value_with_data("body", request.content, request.content_length)
        await flow.process(task, TIMEOUT)
        return web.json_response({"value": task.result})

    app = web.Application()
    app.router.add_post("/work", upload if work == "upload" else value)
    AppIntegrator(app).add_flow(flow)
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None, loop=loop)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
