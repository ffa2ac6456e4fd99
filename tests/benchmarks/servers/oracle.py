"""FastAPI that batches by itself, on its event loop, and knows how many callers there are: no process, no guess.

What a model that takes its time for a batch allows at best behind FastAPI.
"""

from __future__ import annotations

import asyncio
import sys

from fastapi import FastAPI
from pydantic import BaseModel

from .serving import serve
from .work import CALL_TIME, TASK_TIME

PATIENCE = 0.2
"""Seconds after which the missing callers have left, as at the end of a load."""

app = FastAPI()


class Item(BaseModel):
    value: int


class Oracle:
    """Waits for all callers, then for the model.

    Args:
        callers: How many there are.
    """

    def __init__(self, callers: int) -> None:
        self._callers = callers
        self._batch: list[asyncio.Future[None]] = []
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self) -> None:
        """Join the batch and wait until it is done."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._batch.append(future)
        if len(self._batch) == self._callers:
            self._run()
        elif self._timer is None:
            self._timer = loop.call_later(PATIENCE, self._run)
        await future

    def _run(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch, self._batch = self._batch, []
        asyncio.get_running_loop().call_later(CALL_TIME + TASK_TIME * len(batch), _answer, batch)


def _answer(batch: list[asyncio.Future[None]]) -> None:
    for future in batch:
        future.set_result(None)


def main(work: str, port: int) -> None:
    oracle = Oracle(int(work.removeprefix("batching-")))

    @app.post("/work")
    async def value(item: Item) -> Item:
        await oracle.wait()
        return item

    serve(app, port)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
