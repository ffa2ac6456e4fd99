"""JSON bodies whose tasks are larger than the shared memory of the flow."""

from __future__ import annotations

import time

import pytest
from fastapi import FastAPI

from fastapi_aqueduct import Aqueduct, TaskTooLarge, flow_endpoint
from fastapi_aqueduct.testing import client

from ..support import forked
from .json_handlers import Join, Order, Text

LIMIT = 1 << 20


async def test_a_task_that_can_never_fit() -> None:
    """It is refused at once, with 413 and no advice to try again; one that fits is served."""
    flow = forked(Join(), memory_limit=LIMIT)
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.post("/join")
    @flow_endpoint(flow, timeout_sec=30)
    async def join(task: Text) -> int:
        return len(task.text)

    async with client(app) as http:
        begun = time.monotonic()
        answer = await http.post("/join", json={"words": ["x" * (2 * LIMIT)]})
        assert answer.status_code == 413 and "retry-after" not in answer.headers
        # It comes in pieces, so it is refused by its size; what comes at once is, by that of its task.
        assert answer.json() == {"detail": f"The body may have at most {LIMIT} bytes."}
        with pytest.raises(TaskTooLarge, match=f"the flow has {LIMIT} in all.*memory_limit") as caught:
            await flow.process(Text(Order(words=["x" * (2 * LIMIT)])), 30)
        assert caught.value.size > 2 * LIMIT
        assert time.monotonic() - begun < 10  # less than one of them would wait
        assert (await http.post("/join", json={"words": ["x" * (LIMIT // 4)]})).json() == LIMIT // 4
