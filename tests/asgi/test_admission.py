"""A request that cannot be served in time is refused before its body is read, and told when to come again."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from fastapi_aqueduct import Aqueduct, BaseTask, Flow, FlowStep, Upload, flow_endpoint

from .. import handlers
from ..handlers import Gate, StartingOnce
from ..support import eventually, forked, pids
from .handlers import HeldPicture, Hold
from .support import Connection, serving


class Picture(BaseTask):
    """A body."""

    def __init__(self, image: Upload) -> None:
        super().__init__()
        self.image = image


async def refused(http: Any, path: str) -> int:
    """Announce a body, send nothing of it, and return when to come again."""
    async with Connection(http) as connection:
        await connection.send(path, "Content-Length: 1000000", "Expect: 100-continue")
        head = (await connection.read_head()).lower()
    assert head.startswith("http/1.1 503 ")
    return int(head.partition("retry-after: ")[2].split()[0])


async def test_a_step_without_a_ready_worker(tmp_path: Path) -> None:
    """Here its replacement does not become ready."""
    flow = Flow(StartingOnce(handlers.never_end, tmp_path / "hang"))
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.post("/picture")
    @flow_endpoint(flow)
    async def picture(task: Picture) -> int:
        return len(task.image)

    @app.post("/patient")
    @flow_endpoint(flow, timeout_sec=60)
    async def patient(task: Picture) -> int:
        return len(task.image)

    async with serving(app) as http:
        assert (await http.post("/patient", content=b"abc")).json() == 3
        (tmp_path / "hang").touch()
        os.kill(pids(flow)[0], signal.SIGKILL)
        await eventually(lambda: not pids(flow))
        assert await refused(http, "/picture") >= 1


async def test_a_deadline_that_cannot_be_met(tmp_path: Path) -> None:
    """At the measured rate; with an empty queue a task is admitted, since the rate may have changed."""
    flow = forked(FlowStep(Hold()))
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.post("/patient")
    @flow_endpoint(flow, timeout_sec=60)
    async def patient(task: HeldPicture) -> int:
        return len(task.image)

    @app.post("/hurried")
    @flow_endpoint(flow, timeout_sec=0.001)
    async def hurried(task: HeldPicture) -> int:
        return len(task.image)

    async def hold(http: Any, name: str) -> Any:
        pending = asyncio.create_task(http.post(f"/patient?gate={tmp_path}&name={name}", content=b"abc"))
        await eventually(Gate(tmp_path, name).is_entered)
        return pending

    async with serving(app) as http:
        first = await hold(http, "first")
        Gate(tmp_path, "first").open()
        assert (await first).json() == 3
        second = await hold(http, "second")
        assert await refused(http, f"/hurried?gate={tmp_path}") >= 1
        Gate(tmp_path, "second").open()
        assert (await second).json() == 3
        Gate(tmp_path).open()
        response = await http.post(f"/hurried?gate={tmp_path}", content=b"abc")
        assert response.status_code in (200, 504)
