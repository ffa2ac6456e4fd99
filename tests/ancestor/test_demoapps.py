"""The example applications of the package ``aqueduct`` run with only the imports changed, and load no FastAPI."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx
import pytest

from ..asgi.service import Service, launched
from ..support import DEADLINE, Ends, wait_until, write_script
from .demoapps import AIOHTTP_APP, FLASK_APP, write_demoapp

# Beside `python -m demoapp.app`, which serves at port 8080.
RUN = """
    import sys
    from aiohttp import web
    from demoapp.app import prepare_app

    if __name__ == "__main__":
        web.run_app(prepare_app(), host="127.0.0.1", port=int(sys.argv[1]))
"""

IMAGE = b"\xff" * 50_000 + b"\0" * 50_000


def post(service: Service, path: str, image: bytes) -> httpx.Response:
    return httpx.post(f"{service.url}{path}", content=image, timeout=DEADLINE, verify=False)


def classify(service: Service, path: str) -> None:
    assert wait_until(lambda: service.process.poll() is not None or service.probe("/nothing") == 404, 2 * DEADLINE)
    for image, names in ((IMAGE + b"\xff" * 50_000, ["bright", "dark"]), (b"\0\0\xff", ["dark", "bright"])):
        answer = post(service, path, image)
        assert [name for name, _ in answer.raise_for_status().json()["result"]] == names
    assert "pydantic" not in Path(f"/proc/{service.process.pid}/maps").read_text()  # which FastAPI imports


def test_the_aiohttp_example(tmp_path: Path) -> None:
    write_demoapp(tmp_path, AIOHTTP_APP)
    write_script(tmp_path, RUN, "run.py")
    with launched(tmp_path, ["run", "{port}"]) as (process, port):
        service = Service(tmp_path, process, port)
        try:
            classify(service, "/classify")
            worker = min(service.workers())
            os.kill(worker, signal.SIGKILL)  # as the kernel does when there is no memory; the application goes on
            assert wait_until(lambda: len(service.workers() - {worker}) == 3, DEADLINE)
            assert wait_until(lambda: post(service, "/classify", IMAGE).status_code == 200, DEADLINE)
            with Ends(service.workers()) as ends:
                process.send_signal(signal.SIGTERM)
                assert process.wait(DEADLINE) == 0
                assert ends.wait(DEADLINE) == set()
        finally:
            print(service.log())


@pytest.mark.long
def test_the_aiohttp_example_in_forks_of_the_process_that_has_added_the_flow(tmp_path: Path) -> None:
    """The package aqueduct served no request there. Here each fork starts workers of its own."""
    write_demoapp(tmp_path, AIOHTTP_APP)
    write_script(tmp_path, "from demoapp.app import prepare_app\napp = prepare_app()\n", "main.py")
    command = ["gunicorn", "main:app", "--preload", "--worker-class=aiohttp.GunicornWebWorker"]
    with launched(tmp_path, [*command, "--no-control-socket", "--bind=127.0.0.1:{port}"]) as (process, port):
        service = Service(tmp_path, process, port)
        try:
            classify(service, "/classify")
            process.send_signal(signal.SIGTERM)
            assert process.wait(2 * DEADLINE) == 0
        finally:
            print(service.log())


@pytest.mark.long
def test_the_flask_example(tmp_path: Path) -> None:
    write_demoapp(tmp_path, FLASK_APP)
    with launched(tmp_path, ["flask", "--app=demoapp.app", "run", "--port={port}"]) as (process, port):
        service = Service(tmp_path, process, port)
        try:
            classify(service, "/")
            with Ends(service.workers()) as ends:
                process.send_signal(signal.SIGINT)
                process.wait(DEADLINE)
                assert ends.wait(DEADLINE) == set()
        finally:
            print(service.log())
