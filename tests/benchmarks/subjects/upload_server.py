"""A uvicorn server that takes uploads into a flow; tells its port."""

from __future__ import annotations

import sys

import uvicorn
from fastapi import FastAPI

from fastapi_aqueduct import Aqueduct, Flow, flow_endpoint

from ..subject import say
from .holding import Body, make_flow


def make_app(flow: Flow) -> FastAPI:
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.post("/upload")
    @flow_endpoint(flow, timeout_sec=60)
    async def upload(task: Body) -> int:
        return len(task.body)

    @app.get("/held")
    async def held() -> int:
        last = flow.statistics().steps[-1]
        return last.queued + sum(worker.in_flight for worker in last.workers)

    return app


def main(gate: str) -> None:
    config = uvicorn.Config(make_app(make_flow(gate)), port=0, log_level="warning")
    sock = config.bind_socket()
    sock.listen()  # who comes before the flow has started waits
    say(sock.getsockname()[1])
    uvicorn.Server(config).run([sock])


if __name__ == "__main__":
    main(sys.argv[1])
