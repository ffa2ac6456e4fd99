"""A uvicorn server that notes what its event loop needs of the processor; tells its port.

A turn of the loop is the time between two looks at the sockets, in seconds of the processor and of its own thread: what
other processes take does not count.
"""

from __future__ import annotations

import asyncio
import gzip
import selectors
import time

import uvicorn
from fastapi import FastAPI, Request, UploadFile

from fastapi_aqueduct import Aqueduct, Flow, flow_endpoint

from ..subject import say
from .holding import Body, Read


class Turns(selectors.DefaultSelector):
    """Looks at the sockets, and notes the time between two looks.

    Attributes:
        total: Seconds of all turns.
        longest: Seconds of the longest.
    """

    def __init__(self) -> None:
        super().__init__()
        self.forget()
        self._begun = time.thread_time()

    def forget(self) -> None:
        """Begin anew."""
        self.total = self.longest = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        turn = time.thread_time() - self._begun
        self.total += turn
        self.longest = max(self.longest, turn)
        events = super().select(timeout)
        self._begun = time.thread_time()
        return events


def make_app(turns: Turns) -> FastAPI:
    flow = Flow(Read())
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.post("/ours")
    @flow_endpoint(flow, timeout_sec=60, accept_gzip=True)
    async def ours(task: Body) -> int:
        return len(task.body)

    @app.post("/body")
    async def body(request: Request) -> int:
        return len(await request.body())

    @app.post("/form")
    async def form(body: UploadFile) -> int:
        return len(await body.read())

    @app.post("/gzip")
    async def compressed(request: Request) -> int:
        return len(gzip.decompress(await request.body()))

    @app.get("/turns")
    async def cost() -> tuple[float, float]:
        found = turns.total, turns.longest
        turns.forget()
        return found

    return app


async def serve(turns: Turns) -> None:
    config = uvicorn.Config(make_app(turns), port=0, log_level="critical", http="httptools")
    sock = config.bind_socket()
    sock.listen()  # who comes before the flow has started waits
    say(sock.getsockname()[1])
    await uvicorn.Server(config).serve([sock])


def main() -> None:
    turns = Turns()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(turns)) as runner:
        runner.run(serve(turns))


if __name__ == "__main__":
    main()
