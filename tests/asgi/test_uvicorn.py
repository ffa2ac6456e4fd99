"""A uvicorn that is not as it was when it was tried: uploads come all the same, through ASGI's messages."""

from __future__ import annotations

import asyncio
import inspect
import re
import subprocess
import sys
import types
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI, Request
from uvicorn.protocols.http import h11_impl, httptools_impl

from fastapi_aqueduct import Aqueduct, Flow, FlowStep, SharedResponse, flow_endpoint
from fastapi_aqueduct.asgi.uvicorn import Tap

from ..support import DEADLINE, blocks, eventually, forked, script_environment
from .handlers import Add, Picture
from .support import serving, taken

IMPLEMENTATIONS = {"httptools": (httptools_impl, "HttpToolsProtocol"), "h11": (h11_impl, "H11Protocol")}

APPEND = r"self\.cycle\.body \+= (\S+)"

REFACTORINGS = {
    "extended": [(APPEND, r"self.cycle.body.extend(\1)")],
    "a slice": [(APPEND, r"self.cycle.body[len(self.cycle.body) :] = \1")],
    "a sum": [(APPEND, r"self.cycle.body = self.cycle.body + \1")],
    "extended and cleared": [
        (APPEND, r"self.cycle.body.extend(\1)"),
        (r"self\.body = bytearray\(\)(?=\n +return)", "self.body.clear()"),
    ],
    "another name": [(r"cycle\.body\b", "cycle.buffer"), (r"self\.body\b", "self.buffer")],
    "a list": [
        (APPEND, r"self.cycle.body.append(\1)"),
        (r"len\(self\.cycle\.body\)", "sum(map(len, self.cycle.body))"),
        (r"bytes\(self\.body\)", 'b"".join(self.body)'),
        (r"self\.body = bytearray\(\)", "self.body: list[bytes] = []"),
    ],
    "another name for the connection": [(r"self\.transport\b", "self.connection")],
}
"""What could be written otherwise in uvicorn's modules: patterns, and what they become."""


def refactored(http: str, changes: list[tuple[str, str]]) -> Any:
    """Return the class of a protocol whose source has been changed."""
    original, name = IMPLEMENTATIONS[http]
    source = inspect.getsource(original)
    for pattern, replacement in changes:
        source, count = re.subn(pattern, replacement, source)
        assert count
    module = types.ModuleType(original.__name__)
    exec(compile(source, "refactored", "exec"), vars(module))
    return vars(module)[name]


def make_app(flow: Flow) -> FastAPI:
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.post("/fits")
    async def fits(request: Request) -> bool:
        return Tap.fits(request)

    @app.post("/total")
    @flow_endpoint(flow, timeout_sec=30)
    async def total(task: Picture) -> int:
        return task.total

    @app.get("/shared")
    async def shared() -> SharedResponse:
        return SharedResponse(np.ones(300_000, np.uint8))

    return app


async def body() -> AsyncIterator[bytes]:
    """Pieces below and above what the tap leaves to the server, in an order that a mistake would show in the sum."""
    for _ in range(3):
        for size in (1, 100, 5_000, 200_000):
            yield bytes([1]) * size
            await asyncio.sleep(0)


@pytest.mark.parametrize("http", IMPLEMENTATIONS)
@pytest.mark.parametrize("changes", REFACTORINGS.values(), ids=REFACTORINGS)
async def test_a_refactored_uvicorn(http: str, changes: list[tuple[str, str]]) -> None:
    flow = forked(FlowStep(Add()))
    async with serving(make_app(flow), refactored(http, changes)) as server:
        for _ in range(2):
            for content in (bytes([1]) * 1_000_000, b"\1"):
                assert (await server.post("/total", content=content)).json() == len(content)
            assert (await server.post("/total", content=body())).json() == 3 * 205_101
            assert (await server.get("/shared")).content == bytes([1]) * 300_000
        await eventually(lambda: blocks(flow) == taken(flow) == 0)


VERSION = """
import asyncio, logging, sys
import uvicorn
uvicorn.__version__ = sys.argv[1]
from tests.asgi.test_uvicorn import make_app, main
logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
if __name__ == "__main__":
    asyncio.run(main())
"""


async def main() -> None:
    async with serving(make_app(forked(FlowStep(Add())))) as server:
        print((await server.post("/fits", content=b"x")).json())
        for _ in range(2):
            print((await server.post("/total", content=bytes([1]) * 1_000_000)).json())


def run(version: str) -> tuple[list[str], list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", VERSION, version],
        env=script_environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split(), [line for line in done.stderr.splitlines() if "ASGI's messages" in line]


def test_a_release_that_is_not_known() -> None:
    """Its buffer is left alone, and one line of the log says why."""
    printed, lines = run("0.99.1")
    assert printed == ["False", "1000000", "1000000"]
    assert len(lines) == 1
    assert "uvicorn 0.99.1 is not among the tested releases" in lines[0]


def test_the_release_that_is_installed() -> None:
    printed, lines = run(uvicorn.__version__)
    assert printed == ["True", "1000000", "1000000"]
    assert lines == []
