"""Servers that stop while a status page is open."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from ..asgi.service import SERVERS, Service, launched
from ..support import DEADLINE, Ends, eventually, write_script

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

AT_ONCE = DEADLINE / 2
"""Seconds; what waits for the page takes until the flow's `stop_timeout`, or until the test is killed."""

SOURCE = """
    from fastapi import FastAPI

    from fastapi_aqueduct import Aqueduct, Flow
    from tests.handlers import Each, add_one

    aqueduct = Aqueduct(Flow(Each(add_one), stop_timeout=60), admin_is_public=True)
    app = FastAPI(lifespan=aqueduct.lifespan)
    app.include_router(aqueduct.admin, prefix="/ops")
"""


async def read(url: str, has_begun: asyncio.Event) -> list[str]:
    """Follow a page until its response ends or is cut; returns what it was sent."""
    lines = []
    with contextlib.suppress(httpx.RemoteProtocolError):
        async with (
            httpx.AsyncClient(timeout=DEADLINE, verify=False) as http,
            http.stream("GET", f"{url}/ops/events") as response,
        ):
            async for line in response.aiter_lines():
                lines.append(line)
                has_begun.set()
    return lines


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
@pytest.mark.parametrize("server", ["uvicorn", "gunicorn", pytest.param("granian", marks=pytest.mark.long)])
async def test_an_open_page_holds_up_no_stop(tmp_path: Path, server: str, signum: signal.Signals) -> None:
    """Two pages are open. Both get the last event, and the server ends with them.

    On Ctrl-C gunicorn stops its workers at once, whatever they do.
    """
    write_script(tmp_path, SOURCE)
    with launched(tmp_path, SERVERS[server]) as (process, port):
        service = Service(tmp_path, process, port)
        await eventually(lambda: service.probe() == 200)
        has_begun = [asyncio.Event(), asyncio.Event()]
        pages = [asyncio.create_task(read(service.url, event)) for event in has_begun]
        for event in has_begun:
            await asyncio.wait_for(event.wait(), DEADLINE)
        with Ends(service.processes()) as ends:
            service.interrupt() if signum == signal.SIGINT else process.terminate()
            for lines in await asyncio.wait_for(asyncio.gather(*pages), AT_ONCE):
                first: dict[str, Any] = json.loads(lines[0].removeprefix("data: "))
                assert first["flows"][0]["steps"][0]["workers"][0]["state"] == "ready"
                assert "event: end" in lines or (server, signum) == ("gunicorn", signal.SIGINT)
            code = await asyncio.to_thread(process.wait, AT_ONCE)
            assert await asyncio.to_thread(ends.wait, AT_ONCE) == set()
        assert code in (0, -signum)
        assert "Traceback" not in service.log()
