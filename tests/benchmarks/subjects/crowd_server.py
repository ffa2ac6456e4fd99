"""A uvicorn server whose flow has less memory than its uploads have together; tells its port."""

from __future__ import annotations

import sys
from typing import Literal, cast

import uvicorn
from fastapi import FastAPI

from fastapi_aqueduct import Aqueduct, Flow, flow_endpoint

from ..subject import say
from .holding import Body, Read


def make_app(memory_limit: int) -> FastAPI:
    flow = Flow(Read(), memory_limit=memory_limit)
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.post("/upload")
    @flow_endpoint(flow, timeout_sec=60)
    async def upload(task: Body) -> int:
        return len(task.body)

    @app.get("/ready")
    async def ready() -> dict[str, str]:
        return {}

    return app


def main(loop: str, memory_limit: int) -> None:
    kind = cast(Literal["asyncio", "uvloop"], loop)
    config = uvicorn.Config(make_app(memory_limit), port=0, log_level="warning", loop=kind)
    sock = config.bind_socket()
    sock.listen(config.backlog)  # who comes before the flow has started waits
    say(sock.getsockname()[1])
    uvicorn.Server(config).run([sock])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
