"""``AppIntegrator`` in applications of aiohttp and FastAPI, as users of the package ``aqueduct`` have it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from fastapi import Depends, FastAPI

from fastapi_aqueduct import ConfigurationError, Flow, NotRunningError, StartError
from fastapi_aqueduct.integrations import aiohttp, fastapi, utils
from fastapi_aqueduct.integrations.aiohttp import FLOW_NAME, AppIntegrator
from fastapi_aqueduct.integrations.fastapi import get_flow
from fastapi_aqueduct.logger import log
from fastapi_aqueduct.testing import client, inline

from ..asgi.service import SERVERS, Service, launched
from ..support import DEADLINE, eventually, forked, wait_until, write_script
from .integrated import Bad, Endless, Failing, Handler, Task


async def process(request: web.Request) -> web.Response:
    task = Task()
    await request.app["flow"].process(task)
    return web.json_response({"result": task.result})


def test_a_flow_is_added_before_the_loop_of_the_server_runs() -> None:
    with inline(flow := Flow(Handler())):
        app = web.Application()
        app.router.add_post("/", process)
        AppIntegrator(app).add_flow(flow)
        assert app[FLOW_NAME] is flow
        assert flow.is_running

        async def serve() -> None:
            async with TestClient(TestServer(app)) as http:
                assert await (await http.post("/")).json() == {"result": "done"}
            assert not flow.is_running

        asyncio.run(serve())


async def test_a_request_that_is_answered_during_the_shutdown_has_its_flow() -> None:
    is_entered, is_stopping = asyncio.Event(), asyncio.Event()

    async def late(request: web.Request) -> web.Response:
        is_entered.set()
        await is_stopping.wait()
        return await process(request)

    async def on_shutdown(app: web.Application) -> None:
        is_stopping.set()

    with inline(flow := Flow(Handler())):
        app = web.Application()
        app.router.add_post("/", late)
        AppIntegrator(app).add_flow(flow)
        app.on_shutdown.append(on_shutdown)
        async with TestClient(TestServer(app)) as http:
            answer = asyncio.create_task(http.post("/"))
            await is_entered.wait()
            await http.server.close()
            assert (await answer).status == 200
        assert not flow.is_running


async def test_an_endless_stream_does_not_hold_up_the_shutdown() -> None:
    is_streaming = asyncio.Event()

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with pytest.raises(NotRunningError):
            async for _ in request.app[FLOW_NAME].stream(Task(), timeout_sec=DEADLINE):
                is_streaming.set()
                await response.write(b"item\n")
        return response

    with inline(flow := Flow(Endless())):
        app = web.Application()
        app.router.add_get("/", stream)
        AppIntegrator(app).add_flow(flow)
        async with TestClient(TestServer(app)) as http:
            answer = await http.get("/")
            await is_streaming.wait()
            await http.server.close()
            assert (await answer.read()).startswith(b"item\n")


async def test_the_flows_stop_if_something_else_fails_when_the_application_starts() -> None:
    async def fail(app: web.Application) -> AsyncIterator[None]:
        raise OSError("no database")
        yield

    with inline(flow := Flow(Handler())):
        app = web.Application()
        AppIntegrator(app).add_flow(flow)
        app.cleanup_ctx.append(fail)
        runner = web.AppRunner(app)
        with pytest.raises(OSError, match="no database"):
            await runner.setup()
        assert flow.is_running
        await runner.cleanup()
        assert not flow.is_running


async def test_flows_with_names_and_one_that_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("level", "parent", "propagate", "handlers", "disabled"):
        monkeypatch.setattr(log, name, getattr(log, name))  # and restore it
    with inline(first := Flow(Handler())), inline(second := Flow(Handler())):
        app = web.Application()
        integrator = AppIntegrator(app, exit_on_fail=False, logger=logging.getLogger("service"))
        assert log.handlers is logging.getLogger("service").handlers
        integrator.add_flow(first, "first")
        integrator.add_flow(second, "second", with_start=False)
        assert first.is_running and not second.is_running
        with pytest.raises(RuntimeError, match='Flow with name "first" already exists in app'):
            integrator.add_flow(second, "first")
        with pytest.raises(RuntimeError, match="AppIntegrator can be created only once"):
            AppIntegrator(app)
        async with TestClient(TestServer(app)):
            assert not second.is_running
        assert not first.is_running


@contextmanager
def sigterm() -> Iterator[asyncio.Event]:
    """Have SIGTERM set an event in the running loop, as a server that stops does."""
    loop, event = asyncio.get_running_loop(), asyncio.Event()
    before = signal.signal(signal.SIGTERM, lambda number, frame: loop.call_soon_threadsafe(event.set))
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, before)


async def test_the_server_exits_when_a_flow_was_stopped() -> None:
    with inline(flow := Flow(Handler())), sigterm() as terminated:
        app = web.Application()
        AppIntegrator(app).add_flow(flow)
        async with TestClient(TestServer(app)):
            await flow.stop()
            async with asyncio.timeout(DEADLINE):
                await terminated.wait()


async def test_a_bad_input_is_no_reason_to_exit() -> None:
    with inline(flow := Flow(Bad())), sigterm() as terminated:
        app = web.Application()
        AppIntegrator(app).add_flow(flow)
        async with TestClient(TestServer(app)):
            bad = Task()
            bad.result = "bad"
            with pytest.raises(ValueError, match="a bad input"):
                await flow.process(bad)
            assert (await flow.process(Task())).result == "done"
            assert not terminated.is_set()
            assert not app[aiohttp.FLOWS_OBSERVER].done()


def test_a_flow_that_cannot_start_raises_where_it_is_added() -> None:
    with inline(flow := Flow(Failing())):
        with pytest.raises(StartError, match="no model here"):
            AppIntegrator(web.Application()).add_flow(flow)
        assert not flow.is_running


def test_the_limit_of_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    assert utils.get_start_timeout() == 300.0
    for text, seconds in (("2.5", 2.5), ("0", None), ("-1", None), ("soon", 300.0)):
        monkeypatch.setenv(utils.FLOW_START_TIMEOUT_NAME, text)
        assert aiohttp.get_start_timeout() == seconds


def test_a_flow_in_fastapi_starts_with_the_application_and_not_where_it_is_added() -> None:
    with inline(flow := Flow(Handler())):
        app = FastAPI()
        integrator = fastapi.AppIntegrator(app)
        integrator.add_flow(flow)
        assert app.state.flow is flow
        assert not flow.is_running

        @app.post("/process")
        async def endpoint(flow: Flow = Depends(get_flow())) -> str | None:  # noqa: B008
            task = Task()
            await flow.process(task)
            return task.result

        @app.post("/other")
        async def other(flow: Flow = Depends(get_flow("other"))) -> None: ...  # noqa: B008

        async def serve() -> None:
            async with client(app) as http:
                assert (await http.post("/process")).json() == "done"
                assert (await http.get("/ready")).status_code == 404  # nothing is added to the application
                with pytest.raises(ValueError, match='the application has no flow "other"'):
                    await http.post("/other")
                with pytest.raises(RuntimeError, match="cannot be added to an application that has started"):
                    integrator.add_flow(Flow(Handler()), "late")
            assert not flow.is_running

        asyncio.run(serve())


MAIN = """
    from fastapi import Depends, FastAPI
    from fastapi_aqueduct import BaseTask, BaseTaskHandler, Flow, FlowStep
    from fastapi_aqueduct.integrations.fastapi import AppIntegrator, get_flow

    class Task(BaseTask):
        def __init__(self):
            super().__init__()
            self.result = None

    class Handler(BaseTaskHandler):
        def handle(self, *tasks):
            for task in tasks:
                task.result = "done"

    app = FastAPI()
    AppIntegrator(app).add_flow(Flow(FlowStep(Handler())))

    @app.get('/process')
    async def process(flow: Flow = Depends(get_flow())):
        task = Task()
        await flow.process(task)
        return task.result
"""


@pytest.mark.long
def test_an_application_in_one_file_serves(tmp_path: Path) -> None:
    """In the package aqueduct each request of it waits until its timeout: its workers are forked during the import."""
    write_script(tmp_path, MAIN)
    with launched(tmp_path, SERVERS["uvicorn"]) as (process, port):
        service = Service(tmp_path, process, port)
        assert wait_until(lambda: service.probe("/process") == 200, 2 * DEADLINE), service.log()
        process.terminate()
        process.wait(DEADLINE)


async def test_what_the_integrator_of_fastapi_refuses_and_leaves_to_the_lifespan() -> None:
    with inline(first := Flow(Handler())), inline(second := Flow(Handler())), sigterm() as terminated:
        app = FastAPI()
        integrator = fastapi.AppIntegrator(app)
        integrator.add_flow(first, "first")
        integrator.add_flow(second, "second", with_start=False)
        with pytest.raises(RuntimeError, match='Flow with name "first" already exists in app'):
            integrator.add_flow(second, "first")
        with pytest.raises(RuntimeError, match="AppIntegrator can be created only once"):
            fastapi.AppIntegrator(app)
        async with app.router.lifespan_context(app):
            await eventually(lambda: first.is_running)
            async with asyncio.timeout(DEADLINE):
                await terminated.wait()  # the lifespan has not started the second one
        assert not first.is_running


async def test_a_flow_stops_if_the_next_one_cannot_start() -> None:
    with inline(first := Flow(Handler())), inline(second := Flow(Failing())):
        app = FastAPI()
        integrator = fastapi.AppIntegrator(app)
        integrator.add_flow(first, "first")
        integrator.add_flow(second, "second")
        with pytest.raises(StartError, match="no model here"):
            async with app.router.lifespan_context(app):
                pass
        assert not first.is_running


async def test_a_place_of_the_pipeline_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AQUEDUCT_PIPELINE", "somewhere")
    app = FastAPI()
    flow = Flow(Handler())
    fastapi.AppIntegrator(app).add_flow(flow)
    with pytest.raises(ConfigurationError, match=r'AQUEDUCT_PIPELINE must be "own"'):
        async with app.router.lifespan_context(app):
            pass
    assert not flow.is_running


@pytest.mark.long
@pytest.mark.parametrize("framework", [aiohttp, fastapi])
async def test_a_flow_in_a_pipeline_that_the_processes_of_the_server_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, framework: Any
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("AQUEDUCT_PIPELINE", "host")
    app: Any = web.Application() if framework is aiohttp else FastAPI()
    flow = forked(Handler())
    framework.AppIntegrator(app).add_flow(flow)
    async with TestServer(app) if framework is aiohttp else app.router.lifespan_context(app):
        task = Task()
        await flow.process(task, DEADLINE)
        assert task.result == "done"
        (worker,) = flow.statistics().steps[0].workers
        assert worker.pid is not None
        assert os.getpid() not in parents_of(worker.pid)[:2]  # the forkserver and the pipeline process
    assert not flow.is_running


def parents_of(pid: int) -> list[int]:
    parents = []
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        parents.append(pid)
    return parents
