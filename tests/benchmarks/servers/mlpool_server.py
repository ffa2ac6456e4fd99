"""FastAPI and MLPool."""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from ml_pool import MLPool
from pydantic import BaseModel

from .serving import serve

# Several lines for each task otherwise; the worker imports this module too.
for name in ("ml_pool", "ml_worker"):
    logging.getLogger(name).setLevel(logging.WARNING)


class Item(BaseModel):
    value: int


def load() -> str:
    return "a model"


def score(model: str, value: int) -> int:
    return value


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.pool = MLPool(models_to_load={"model": load}, nb_workers=1)
    yield
    # One of its threads sleeps for ten seconds.
    app.state.pool.shutdown(timeout=0.2)


app = FastAPI(lifespan=lifespan)


@app.post("/work")
async def noop(item: Item) -> Item:
    pool = app.state.pool
    job = await pool.create_job_async(score, "model", kwargs={"value": item.value})
    return Item(value=await pool.get_result_async(job))


if __name__ == "__main__":
    serve(app, int(sys.argv[2]))
