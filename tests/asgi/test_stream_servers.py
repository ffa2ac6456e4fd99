"""Endpoints with a stream under each server, also behind ``BaseHTTPMiddleware``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from ..handlers import Gate
from ..support import DEADLINE, wait_until, write_script
from .service import SERVERS, Service, launched

SOURCE = """
    from collections.abc import AsyncIterator

    from fastapi import FastAPI
    from fastapi.responses import EventSourceResponse

    from fastapi_aqueduct import Aqueduct, Flow, FlowStep, FlowStream, flow_endpoint
    from tests.asgi.handlers import Speech, speak
    from tests.handlers import Yielding

    flow = Flow(FlowStep(Yielding(speak), nprocs=3, max_retries=0))
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)
    inner = FastAPI()

    async def pass_on(request, call_next):
        return await call_next(request)

    async def words(task: Speech, items: FlowStream[str]) -> AsyncIterator[str]:
        async for text in items:
            yield text

    for application in (app, inner):
        events = flow_endpoint(flow, timeout_sec=60, item_timeout=1)(words)
        application.get("/events", response_class=EventSourceResponse)(events)
    inner.middleware("http")(pass_on)
    app.mount("/behind", inner)
"""

WORDS = "".join(f'data: "word {number}"\n\n' for number in range(200)).encode()


def cut_body(url: str, directory: Path, act: str, at: int) -> bytes:
    """Return what comes of a body before the server cuts the connection, which it must do."""
    body = b""
    params: dict[str, Any] = {"directory": str(directory), "act": act, "at": at, "count": 200}
    with httpx.Client(verify=False, timeout=DEADLINE) as http:
        with pytest.raises(httpx.RemoteProtocolError), http.stream("GET", url, params=params) as response:
            assert response.status_code == 200
            for chunk in response.iter_raw():
                body += chunk
    return body


@pytest.mark.parametrize("server", ["uvicorn", "hypercorn-alone", "granian"])
def test_a_client_sees_the_end_of_a_response_or_its_lack(server: str, tmp_path: Path) -> None:
    """An error of a handler is in the log, also where the middleware would hide it."""
    write_script(tmp_path, SOURCE)
    with launched(tmp_path, SERVERS[server]) as (process, port):
        service = Service(tmp_path, process, port)
        assert wait_until(lambda: service.probe() == 200, DEADLINE), service.log()
        for prefix in ("", "/behind"):
            for act, status in (("", 200), ("raise", 500), ("die", 503)):
                params: dict[str, Any] = {"directory": str(tmp_path), "act": act, "at": 0, "count": 200}
                response = httpx.get(f"{service.url}{prefix}/events", params=params, verify=False, timeout=DEADLINE)
                assert response.status_code == status
                assert status != 200 or response.content == WORDS
            assert cut_body(f"{service.url}{prefix}/events", tmp_path, "raise", at=200) == WORDS
            directory = tmp_path / f"gate{prefix.replace('/', ' ')}"
            directory.mkdir()
            assert WORDS.startswith(cut_body(f"{service.url}{prefix}/events", directory, "gate", at=1))
            Gate(directory).open()
        process.terminate()
        process.wait(DEADLINE)
        assert service.log().count("ValueError: at 200") >= 2
