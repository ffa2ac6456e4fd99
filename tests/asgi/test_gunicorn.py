"""Under gunicorn's own ASGI worker, to which a cancelled ``receive`` is a client that has left."""

from __future__ import annotations

from pathlib import Path

import httpx

from ..support import DEADLINE, wait_until, write_script
from .service import SERVERS, Service, launched

WORK = """
    import time
    from collections.abc import Iterator

    from fastapi_aqueduct import in_worker

    LONG = 0.15  # seconds; longer than the delay of a watch

    @in_worker
    def double(number: int) -> int:
        time.sleep(LONG)
        return 2 * number

    @in_worker
    def count(number: int) -> Iterator[int]:
        time.sleep(LONG)
        yield from range(number)
"""

SOURCE = """
    from fastapi import FastAPI, Response
    from fastapi.responses import EventSourceResponse
    from starlette.requests import Request

    from fastapi_aqueduct import Aqueduct, stream_response
    from work import count, double

    app = FastAPI(lifespan=Aqueduct(double, count).lifespan)

    @app.get("/twice")
    async def twice() -> int:
        return await double(await double(1))

    @app.get("/blocking")
    def blocking() -> int:
        return double.blocking(double.blocking(1))

    @app.get("/count")
    async def counted(request: Request) -> Response:
        return await stream_response(request, count.stream(3), EventSourceResponse)
"""


def test_a_client_that_waits_for_several_calls_has_not_left(tmp_path: Path) -> None:
    write_script(tmp_path, WORK, "work.py")
    write_script(tmp_path, SOURCE)
    with launched(tmp_path, SERVERS["gunicorn"]) as (process, port):
        service = Service(tmp_path, process, port)
        assert wait_until(lambda: service.probe() == 200, DEADLINE), service.log()
        with httpx.Client(base_url=service.url, verify=False) as http:
            assert http.get("/twice").json() == 4
            assert http.get("/blocking").json() == 4
            assert http.get("/count").text == "data: 0\n\ndata: 1\n\ndata: 2\n\n"
        process.terminate()
        assert process.wait(DEADLINE) == 0
