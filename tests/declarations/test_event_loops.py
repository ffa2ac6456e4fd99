"""Flows need asyncio: any other event loop is refused with what to do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from fastapi import FastAPI

from fastapi_aqueduct import Aqueduct, ConfigurationError, Flow, NotRunningError

from ..asgi.service import launched
from ..handlers import Each, Job, add_one
from ..support import DEADLINE, write_script

WORDS = (
    "flows need asyncio, and none of its event loops runs here; run the server with asyncio or uvloop (hypercorn: "
    "--worker-class asyncio), and tests with anyio's backend asyncio"
)


def refused_under_trio(function: Callable[[], Awaitable[Any]]) -> None:
    async def main() -> None:
        await function()

    with pytest.raises(ConfigurationError) as caught:
        trio.run(main)
    assert str(caught.value) == WORDS


def test_a_flow_under_trio() -> None:
    flow = Flow(Each())
    refused_under_trio(flow.start_async)
    refused_under_trio(flow.__aenter__)
    with pytest.raises(NotRunningError):
        trio.run(flow.process, Job())
    assert not flow.is_running


def test_a_flow_that_runs_is_not_used_under_trio() -> None:
    """And goes on working under asyncio."""
    flow = Flow(Each(add_one))
    flow.start()
    try:
        refused_under_trio(lambda: flow.process(Job(number=1)))
    finally:

        async def use() -> int:
            result: int = (await flow.process(Job(number=1))).number
            await flow.stop()
            return result

        assert asyncio.run(use()) == 2


def test_an_application_under_trio() -> None:
    aqueduct = Aqueduct(Flow(Each()))
    refused_under_trio(lambda: aqueduct.run(FastAPI()).__aenter__())


SERVICE = """
    from fastapi import FastAPI
    from fastapi_aqueduct import Aqueduct, Flow
    from tests.handlers import Each

    app = FastAPI(lifespan=Aqueduct(Flow(Each())).lifespan)
"""


def test_a_server_under_trio(tmp_path: Path) -> None:
    """hypercorn does not start, and says why."""
    write_script(tmp_path, SERVICE)
    command = ["hypercorn", "main:app", "--bind=127.0.0.1:{port}", "--workers=0", "--worker-class=trio"]
    with launched(tmp_path, command) as (process, _):
        process.wait(DEADLINE)
    assert WORDS in (tmp_path / "log").read_text()
