"""Applications for Ray Serve: a model with batches, and services of ours. Each is on the node of the models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from ray import serve

from . import work
from .pipeline import FLOWS, REMOTE_NODE, Item

plain = FastAPI()


class Service:
    """What a replica is beside its application: nothing."""


async def _copy(values: list[int]) -> list[int]:
    return values


async def _touch(bodies: list[bytes]) -> list[int]:
    return [work.touch(body) for body in bodies]


_batched = serve.batch(max_batch_size=work.ACTOR_BATCH_SIZE, batch_wait_timeout_s=0.0)
copy, touch = _batched(_copy), _batched(_touch)


@plain.post("/noop")
async def noop(item: Item) -> Item:
    return Item(value=await copy(item.value))


@plain.post("/upload")
async def upload(request: Request) -> Item:
    return Item(value=await touch(await request.body()))


def build_noop() -> FastAPI:
    """Make a service of ours in a replica, which cannot be copied there."""
    return _build("noop")


def build_upload() -> FastAPI:
    """Make another one."""
    return _build("upload")


def _build(name: str) -> FastAPI:
    from .ours_fastapi import make_app

    return make_app(name, FLOWS[name]())


def _deployment(app: Any) -> Any:
    options = {"num_cpus": 0, "resources": {REMOTE_NODE: 0.01}}
    return serve.deployment(serve.ingress(app)(Service), ray_actor_options=options, max_ongoing_requests=100)


DEPLOYMENTS: dict[str, Callable[[], Any]] = {
    "plain": lambda: _deployment(plain),
    "noop": lambda: _deployment(build_noop),
    "upload": lambda: _deployment(build_upload),
}
"""What makes each of them, by its prefix in URLs."""
