"""``SocketFlow``: one pipeline for several web processes, as users of the package ``aqueduct`` have it."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from fastapi_aqueduct import BaseTask, ConfigurationError, Flow, FlowError, StartError
from fastapi_aqueduct.integrations.zero import BaseFlowClient
from fastapi_aqueduct.multiprocessing import ProcessContext
from fastapi_aqueduct.sockets.flow import SocketFlow
from fastapi_aqueduct.sockets.settings import DEFAULT_PATH, SocketSettings

from ..asgi.service import Service, launched
from ..support import DEADLINE, Ends, eventually, forked, outcome, wait_until, write_script
from .integrated import Bad, Failing, Keeping, Sum, Task


class Client(BaseFlowClient):
    _name = "client"

    async def process(self, task: BaseTask, timeout_sec: float = DEADLINE) -> bool:
        return await self._flow.process([task], timeout_sec)


async def test_a_preloaded_flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("client_SOCKET_PATH", f"{tmp_path}/flow.sock")
    flow = forked(Bad())
    context = SocketFlow("client").preload(flow, 3 * DEADLINE)
    assert isinstance(context, ProcessContext)
    (process,) = context.processes
    assert context.pids() == [process.pid] and process.is_alive()
    client = Client()
    with pytest.raises(RuntimeError, match="await its start()"):
        await client.process(Task())
    await client.connect()
    try:
        bad, good = Task(), Task()
        bad.result = "bad"
        assert await client.process(good) is True
        assert good.result == "done"
        tasks = [bad, Task()]
        assert isinstance(await outcome(client._flow.process(tasks, DEADLINE)), ValueError)
        assert tasks[1].result == "done"
        second = Client()
        await second.connect()
        await second.disconnect()  # the first one stays connected

        (worker,) = workers_of(flow)
        os.kill(worker, signal.SIGKILL)  # which the package aqueduct did not notice
        await eventually(lambda: workers_of(flow) - {worker})
        assert await client.process(Task())
        with Ends(workers_of(flow)) as ends:
            os.kill(process.pid, signal.SIGKILL)  # as the manual does when the server exits
            assert context.join(DEADLINE)
            assert process.exitcode == -signal.SIGKILL
            assert ends.wait(DEADLINE) == set()
        with pytest.raises(FlowError, match="pipeline process"):
            await client.process(Task(), 0.1)
    finally:
        await client.disconnect()


def workers_of(flow: Flow) -> set[int]:
    return {worker.pid for step in flow.statistics().steps for worker in step.workers if worker.pid}


@pytest.mark.long
async def test_processes_that_were_initialized_here_start_anew_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_SOCKET_PATH", f"{tmp_path}/new/flow.sock")
    flow, socket_flow = forked(Sum()), SocketFlow()
    flow.init_processes()
    context = socket_flow.preload(flow)
    await socket_flow.start()
    image = np.ones(100_000, np.uint8)
    task = Keeping(image)
    assert await socket_flow.process([task], DEADLINE)
    assert (task.total, task.image is image) == (100_000, True)
    del task
    await socket_flow.stop()
    context.processes[0].terminate()
    context.processes[0].join(DEADLINE)
    assert context.processes[0].exitcode == 0
    assert not (tmp_path / "new" / "flow.sock").exists()


def test_a_flow_that_cannot_start_raises_in_preload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_SOCKET_PATH", f"{tmp_path}/flow.sock")
    with pytest.raises(StartError, match="no model here"):
        SocketFlow().preload(forked(Failing()))


async def test_a_process_without_a_flow_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_SOCKET_PATH", f"{tmp_path}/flow.sock")
    with pytest.raises(RuntimeError, match=r"pipeline=\"unix:.*flow.sock\""):
        await SocketFlow().start()
    await SocketFlow().stop()


def test_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert SocketSettings.read("ocr") == SocketSettings(tmp_path / "aqueduct/socket-flow/flow.sock", float("inf"))
    assert not os.path.samefile("/tmp", tmp_path) and DEFAULT_PATH.startswith("/tmp/")
    monkeypatch.setenv("ocr_SOCKET_PATH", f"{tmp_path}/own.sock")
    monkeypatch.setenv("ocr_FLOW_PROCESS_TIMEOUT", "3")
    monkeypatch.setenv("ocr_SOCKET_POOL_READ_TIMEOUT", "2.5")
    monkeypatch.setenv("ocr_SOCKET_POOL_SIZE", "10")
    with caplog.at_level(logging.INFO):
        assert SocketSettings.read("ocr") == SocketSettings(tmp_path / "own.sock", 2.5)
    assert caplog.messages == [
        "ocr_SOCKET_POOL_SIZE has no effect: a process has one connection for all its tasks"
    ]
    limits = [("ocr_FLOW_PROCESS_TIMEOUT", value) for value in ("soon", "nan", "0", "-1")]
    for variable, value in (*limits, ("ocr_SOCKET_PATH", "flow.sock")):
        monkeypatch.setenv(variable, value)
        with pytest.raises(ConfigurationError):
            SocketSettings.read("ocr")


FLOW = """
    from fastapi_aqueduct.flow import Flow, FlowStep
    from fastapi_aqueduct.handler import BaseTaskHandler
    from fastapi_aqueduct.task import BaseTask

    class Task(BaseTask):
        def __init__(self):
            super().__init__()
            self.result = None

    class Handler(BaseTaskHandler):
        def handle(self, *tasks: Task):
            for task in tasks:
                task.result = 'done'

    def build_flow() -> Flow:
        return Flow(
            FlowStep(
                Handler(),
            ),
        )
"""

MAIN = """
    import os
    from contextlib import asynccontextmanager

    from fastapi_aqueduct.sockets.flow import SocketFlow
    from fastapi import FastAPI

    from flow import Task, build_flow

    socket_flow = SocketFlow()

    @asynccontextmanager
    async def lifespan(app):  # beside FastAPI(on_startup=[socket_flow.start]), which FastAPI has no more
        await socket_flow.start()
        yield
        await socket_flow.stop()

    app = FastAPI(lifespan=lifespan)

    @app.get('/get_result')
    async def get_result() -> dict[str, object]:
        task = Task()
        await socket_flow.process([task])  # Send batch of tasks via socket
        return {"result": task.result, "pid": os.getpid()}
"""

GUNICORN = """
    import os
    import signal

    from main import build_flow, socket_flow

    workers = 2
    worker_class = 'asgi'
    wsgi_app = 'main:app'
    preload_app = True

    flow_socket_server_proc_ctx = None

    def on_starting(server):
        global flow_socket_server_proc_ctx
        # Initialize Flow steps and Flow socket server with its steps only once
        flow_socket_server_proc_ctx = socket_flow.preload(build_flow())

    def on_exit(server):
        if flow_socket_server_proc_ctx:
            for process in flow_socket_server_proc_ctx.processes:
                os.kill(process.pid, signal.SIGKILL)
"""


@pytest.mark.long
@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
def test_the_gunicorn_example_of_the_manual(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: signal.Signals
) -> None:
    monkeypatch.setenv("_SOCKET_PATH", f"{tmp_path}/run/flow.sock")
    for source, name in ((FLOW, "flow.py"), (MAIN, "main.py"), (GUNICORN, "gunicorn_config.py")):
        write_script(tmp_path, source, name)
    command = ["gunicorn", "-c", "gunicorn_config.py", "--no-control-socket", "--bind=127.0.0.1:{port}"]
    with launched(tmp_path, command) as (process, port):
        service = Service(tmp_path, process, port)
        try:
            assert wait_until(lambda: process.poll() is not None or service.probe("/get_result") == 200, 3 * DEADLINE)
            answers: list[dict[str, Any]] = []

            def both() -> bool:
                answers.append(httpx.get(f"{service.url}/get_result", verify=False).raise_for_status().json())
                return len({answer["pid"] for answer in answers}) == 2

            assert wait_until(both, DEADLINE)
            assert {answer["result"] for answer in answers} == {"done"}
            workers = service.workers()
            assert len(workers) == 1  # one pipeline for both
            with Ends(workers | service.processes()) as ends:
                process.send_signal(ending)
                process.wait(2 * DEADLINE)
                assert ends.wait(3 * DEADLINE) == set()
        finally:
            print(service.log())
