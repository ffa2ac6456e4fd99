"""A uvicorn server that lets some clients take their time over an upload; tells its port."""

from __future__ import annotations

import uvicorn
from fastapi import FastAPI

from fastapi_aqueduct import Aqueduct, Flow, UploadLimits, flow_endpoint

from ...slow_clients import allow_descriptors
from ..subject import say
from .holding import Body, Read

MOST_CLIENTS = 4000


def make_app() -> FastAPI:
    flow = Flow(Read())
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.post("/upload")
    @flow_endpoint(flow, timeout_sec=60)
    async def upload(task: Body) -> int:
        return len(task.body)

    @app.post("/slow")
    @flow_endpoint(flow, upload_limits=UploadLimits(idle_timeout=None, min_rate=0))
    async def slow(task: Body) -> int:
        return len(task.body)

    @app.get("/memory")
    async def memory() -> dict[str, int]:
        arena = flow.statistics().arena
        return {"receiving": arena.receiving, "blocks": arena.blocks}

    return app


def main() -> None:
    allow_descriptors(MOST_CLIENTS)
    config = uvicorn.Config(make_app(), port=0, log_level="warning")
    sock = config.bind_socket()
    sock.listen(config.backlog)  # who comes before the flow has started waits
    say(sock.getsockname()[1])
    uvicorn.Server(config).run([sock])


if __name__ == "__main__":
    main()
