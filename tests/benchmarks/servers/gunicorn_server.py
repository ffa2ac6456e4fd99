"""gunicorn with its ASGI worker and one of its dirty workers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from gunicorn.app.base import BaseApplication
from gunicorn.dirty import get_dirty_client_async
from gunicorn.dirty.app import DirtyApp
from pydantic import BaseModel

from . import work

DIRTY_APP = f"{__spec__.name}:Worker"


class Item(BaseModel):
    value: int


class Worker(DirtyApp):  # type: ignore[misc]  # not installed where types are checked
    def copy(self, value: int) -> int:
        return value

    def touch(self, body: bytes) -> int:
        return work.touch(body)


async def run(action: str, argument: Any) -> int:
    client = await get_dirty_client_async()
    result: int = await client.execute_async(DIRTY_APP, action, argument)
    return result


async def noop(item: Item) -> Item:
    return Item(value=await run("copy", item.value))


async def upload(request: Request) -> Item:
    return Item(value=await run("touch", await request.body()))


ENDPOINTS: dict[str, Callable[..., Any]] = {"noop": noop, "upload": upload}


class Server(BaseApplication):  # type: ignore[misc]
    def __init__(self, app: FastAPI, port: int) -> None:
        self._app = app
        self._port = port
        super().__init__()

    def load_config(self) -> None:
        settings = {
            "bind": f"127.0.0.1:{self._port}",
            "worker_class": "asgi",
            "workers": 1,
            "asgi_loop": "uvloop",
            "dirty_apps": [DIRTY_APP],
            "dirty_workers": 1,
            # It would take a process that rests for one that hangs.
            "timeout": 0,
            "loglevel": "warning",
        }
        for name, value in settings.items():
            self.cfg.set(name, value)

    def load(self) -> FastAPI:
        return self._app


def main(name: str, port: int) -> None:
    app = FastAPI()
    app.post("/work")(ENDPOINTS[name])
    Server(app, port).run()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
