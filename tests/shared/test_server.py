"""A pipeline process: whom it lets in, how long it stays, and what those get that wait for its start."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from fastapi_aqueduct import BaseTaskHandler, ConfigurationError, Flow, FlowStep, StartError
from fastapi_aqueduct.engine.shared.handshake import NoAnswer, greet
from fastapi_aqueduct.engine.shared.host_lock import HostLock
from fastapi_aqueduct.engine.shared.pipeline_loop import run_pipeline
from fastapi_aqueduct.engine.shared.plan import make_plan
from fastapi_aqueduct.engine.shared.process import start_pipeline
from fastapi_aqueduct.engine.shared.reception import listen
from fastapi_aqueduct.engine.shared.server import PipelineServer

from ..handlers import note, notes
from ..support import DEADLINE, eventually, forked, outcome, run_script
from .guests import connect, connected, hello, leave
from .support import few_descriptors


class Noting(BaseTaskHandler):
    """Notes its start and its stop.

    Args:
        path: Where.
        act: What its start does.
    """

    def __init__(self, path: Path, act: str = "") -> None:
        self.path = path
        self.act = act

    def on_start(self) -> None:
        note(self.path, "started")
        if self.act == "fail":
            raise ValueError("no model")
        if self.act == "hang":
            threading.Event().wait(2 * DEADLINE)

    def handle(self, *tasks: Any) -> None:
        pass

    def on_stop(self) -> None:
        note(self.path, "stopped")


@contextlib.asynccontextmanager
async def serving(flow: Flow, path: Path, linger: float | None) -> AsyncIterator[asyncio.Task[None]]:
    """Run a flow for API processes that connect."""
    server = PipelineServer(make_plan(flow._lifecycle.options), listen(str(path)), linger)
    run = asyncio.create_task(server.run())
    try:
        yield run
    finally:
        if not run.done():
            server.stop()
            await asyncio.wait_for(run, DEADLINE)


async def test_it_goes_when_the_last_api_process_has_vanished_for_a_while(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    async with serving(forked(Noting(tmp_path / "notes"), name="ocr"), path, 0.2) as run:
        first = await asyncio.to_thread(connect, path, "ocr")
        assert (first.welcome.steps, first.welcome.pid) == (("step1_Noting",), os.getpid())
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        second = await asyncio.to_thread(connect, path, "ocr")
        first.close()
        await asyncio.sleep(0)
        third = await asyncio.to_thread(connect, path, "ocr")  # in the place of the first one
        second.close()
        third.close()
        await asyncio.wait_for(run, DEADLINE)
    assert not path.exists()
    assert notes(tmp_path / "notes") == ["started", "stopped"]


async def test_it_goes_at_once_when_the_last_api_process_leaves_in_order(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    async with serving(forked(Noting(tmp_path / "notes"), name="ocr"), path, 2 * DEADLINE) as run:
        end = await asyncio.to_thread(connect, path, "ocr")
        leave(end)
        await asyncio.wait_for(run, DEADLINE)
        end.close()
    assert notes(tmp_path / "notes") == ["started", "stopped"]


async def test_all_who_wait_for_a_start_get_its_failure(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    async with serving(forked(Noting(tmp_path / "notes", "fail"), name="ocr"), path, 2 * DEADLINE) as run:
        ends = await asyncio.gather(*[outcome(asyncio.to_thread(connect, path, "ocr")) for _ in range(3)])
        assert isinstance(await outcome(run), StartError)
    assert [type(end) for end in ends] == [StartError] * 3
    assert all("no model" in str(end) and "step1_Noting" in str(end) for end in ends)
    assert notes(tmp_path / "notes") == ["started"]
    assert not path.exists()


async def test_a_start_for_which_nobody_waits_any_more_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    async with serving(forked(Noting(tmp_path / "notes", "hang"), name="ocr"), path, 0.2) as run:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            waiting = asyncio.create_task(outcome(asyncio.to_thread(greet, sock, hello("ocr"), time.monotonic() + 99)))
            await eventually(lambda: notes(tmp_path / "notes"))
            sock.shutdown(socket.SHUT_RDWR)
            assert isinstance(await waiting, NoAnswer)
        await asyncio.wait_for(run, DEADLINE)


async def test_who_runs_another_flow_is_refused_and_a_silent_one_holds_up_nobody(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    async with serving(forked(Noting(tmp_path / "notes"), name="ocr"), path, None) as run:
        with socket.socket(socket.AF_UNIX) as silent:
            silent.connect(str(path))
            end = await asyncio.to_thread(connect, path, "ocr")
            with pytest.raises(StartError, match="it runs flow ocr, and the API process .* asks for flow other"):
                await asyncio.to_thread(connect, path, "other")
            end.close()
        assert not run.done()


async def test_without_descriptors_connections_wait_and_the_loop_does_not_spin(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "socket"
    async with serving(forked(Noting(tmp_path / "notes"), name="ocr"), path, None):
        end = await asyncio.to_thread(connect, path, "ocr")  # stays, so that the server closes no descriptor meanwhile
        with socket.socket(socket.AF_UNIX) as sock:
            with few_descriptors(0):
                sock.connect(str(path))
                await eventually(lambda: "cannot connect to flow ocr yet" in caplog.text)
                await asyncio.sleep(0.1)
            assert caplog.text.count("cannot connect") == 1
            caplog.clear()  # the exception in the record refers to the server
            (await asyncio.to_thread(greet, sock, hello("ocr"), time.monotonic() + DEADLINE)).close()
        end.close()


def test_a_path_that_is_too_long_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="of 2.. bytes, where the system allows about 100"):
        listen(str(tmp_path / ("x" * (230 - len(str(tmp_path))))))


def test_a_pipeline_process_ends_with_its_last_api_process_and_by_no_signal_before(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    lock = HostLock(path)
    flow = Flow(FlowStep(Noting(tmp_path / "notes")), name="ocr")
    lock_fd = lock.take()
    assert lock_fd is not None
    process = start_pipeline(make_plan(flow._lifecycle.options), str(path), lock_fd)
    os.close(lock_fd)
    try:
        with connected(path, "ocr") as end:
            process.send_signal(signal.SIGINT)
            process.send_signal(signal.SIGTERM)
            assert os.getsid(process.pid) == process.pid == end.welcome.pid
            with connected(path, "ocr"):
                pass
            assert lock.take() is None
            leave(end)
            assert process.wait(DEADLINE) == 0
    finally:
        process.kill()
        process.wait()
    assert notes(tmp_path / "notes") == ["started", "stopped"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["notes"]


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="without pidfds uvloop may not see that a process is gone")
@pytest.mark.parametrize("is_installed", [True, False])
def test_it_uses_uvloop_where_that_is_installed(is_installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not is_installed:
        monkeypatch.setitem(sys.modules, "uvloop", None)
    loops: list[asyncio.AbstractEventLoop] = []

    async def main() -> None:
        loops.append(asyncio.get_running_loop())

    run_pipeline(main())
    assert isinstance(loops[0], uvloop.Loop) is is_installed


SCRIPT = """
    import asyncio, os, socket, sys, time
    from pathlib import Path

    import fastapi_aqueduct
    from fastapi_aqueduct import BaseTaskHandler, Flow
    from fastapi_aqueduct.engine.shared.handshake import Hello, NoAnswer, greet
    from fastapi_aqueduct.engine.shared.host_lock import HostLock
    from fastapi_aqueduct.engine.shared.plan import make_plan
    from fastapi_aqueduct.engine.shared.process import start_pipeline

    def start():
        class Local(BaseTaskHandler):
            def handle(self, *tasks):
                pass

        Local.__qualname__ = "Local"
        globals()["Local"] = Local
        flow = Flow(Local(), name="ocr")
        lock_fd = HostLock(Path("socket")).take()
        process = start_pipeline(make_plan(flow._lifecycle.options), "socket", lock_fd)
        os.close(lock_fd)
        try:
            while True:
                with socket.socket(socket.AF_UNIX) as sock:
                    try:
                        sock.connect("socket")
                        greet(sock, Hello(fastapi_aqueduct.__version__, "ocr", "", 1), time.monotonic() + 60)
                    except (NoAnswer, FileNotFoundError, ConnectionRefusedError):
                        time.sleep(0.01)
        except fastapi_aqueduct.StartError as exc:
            print(exc)
        print(process.wait(30))

    if __name__ == "__main__":
        start()
"""


def test_a_handler_that_workers_cannot_import_is_explained_with_the_main_module_of_the_application(
    tmp_path: Path,
) -> None:
    (tmp_path / "queue.py").write_text("raise AssertionError('not the module of the standard library')\n")
    error, status = run_script(tmp_path, SCRIPT, "-P", "main.py", timeout=2 * DEADLINE).splitlines()
    assert f"cannot import Local from {tmp_path}/main.py: it has no Local; define it at the top level" in error
    assert status == "1"
