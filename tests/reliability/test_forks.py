"""Forks of the server, and forks of a worker: neither takes part in what its parent does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from fastapi_aqueduct import Flow

from ..asgi.service import launched
from ..handlers import Each, Job, notes
from ..support import DEADLINE, Ends, pids, run_script, running, script_environment, wait_until, write_script
from .children import ForkingAtStart, fork_and_come_back

METHODS: list[Any] = ["spawn", "forkserver"]

long = partial(pytest.param, marks=pytest.mark.long)

WAYS = {"return": 0, "exit": 3, "error": 1}
"""The ways to leave a handler, and the exit codes of a process that does."""

# Forks of a worker


class Noting(Each):
    """Writes down that a worker stops."""

    def __init__(self, path: Path) -> None:
        super().__init__(fork_and_come_back)
        self.path = path

    def on_stop(self) -> None:
        with self.path.open("a") as file:
            file.write(f"{os.getpid()}\n")


@pytest.mark.parametrize("method", METHODS)
async def test_a_child_of_a_handler_ends_and_is_no_second_worker(
    tmp_path: Path, method: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    async with running(Flow(Noting(tmp_path / "stopped"), mp_start_method=method)) as flow:
        (pid,) = pids(flow)
        for way, exit_code in WAYS.items():
            for _ in range(3):
                job = await flow.process(Job(way=way), DEADLINE)
                assert (job.pid, job.exit_code) == (pid, exit_code)
    assert notes(tmp_path / "stopped") == [str(pid)]
    # The forkserver has the stderr of the first test that used it.
    assert method == "forkserver" or "EOFError: in the child" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("method", "way"), [*[("spawn", way) for way in WAYS], *[long("forkserver", way) for way in WAYS]]
)
async def test_a_child_that_was_forked_while_a_worker_starts_is_none_either(method: Any, way: str) -> None:
    async with running(Flow(ForkingAtStart(way), mp_start_method=method)) as flow:
        assert (await flow.process(Job(), DEADLINE)).exit_code == WAYS[way]


# Forks of the server

FORKING = """
    import asyncio
    import logging
    import os
    import sys
    from fastapi_aqueduct import Flow, ForkedError, StartError
    from tests.handlers import Each, Job, add_one

    logging.basicConfig(stream=sys.stdout, format="%(levelname)s", level=logging.ERROR)
    flow = Flow(Each(add_one), mp_start_method="{method}", name="ocr")

    async def count(number):
        return (await flow.process(Job(number=number), 20)).number

    async def refuse():
        for _ in range(2):
            try:
                await count(1)
            except ForkedError as exc:
                print(exc)

    async def begin_anew():
        try:
            async with flow:
                print("child", await count(10))
        except StartError as exc:
            print("child", exc)

    def be_child():
        print(flow.state, flow.statistics().steps[0].workers)
        asyncio.run(refuse())
        asyncio.run(flow.stop())
        asyncio.run(begin_anew())
        sys.stdout.flush()

    {main}
"""

AT_IMPORT = """
    if __name__ == "__main__":
        flow.start()
        child = os.fork()
        if not child:
            be_child()
            sys.exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        print("parent", asyncio.run(count(20)))
        asyncio.run(flow.stop())
"""

IN_THE_LOOP = """
    async def main():
        async with flow:
            child = os.fork()
            if not child:
                asyncio._set_running_loop(None)
                be_child()
                os._exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
            print("parent", await count(20))

    if __name__ == "__main__":
        {run}(main())
"""


UNDER_ASYNCIO = IN_THE_LOOP.format(run="asyncio.run")
UNDER_UVLOOP = IN_THE_LOOP.format(run="import uvloop; uvloop.run")


@pytest.mark.parametrize(
    ("main", "method"),
    [
        pytest.param(AT_IMPORT, "spawn", id="at import"),
        pytest.param(UNDER_ASYNCIO, "forkserver", id="under asyncio, forkserver"),
        pytest.param(UNDER_UVLOOP, "spawn", id="under uvloop"),
        long(AT_IMPORT, "forkserver", id="at import, forkserver"),
        long(UNDER_ASYNCIO, "spawn", id="under asyncio"),
        long(UNDER_UVLOOP, "forkserver", id="under uvloop, forkserver"),
    ],
)
def test_a_fork_of_the_server_is_told_so_and_leaves_its_parent_alone(tmp_path: Path, method: str, main: str) -> None:
    source = FORKING.replace("{method}", method).replace("    {main}\n", main)
    state, *refusals, child, parent = run_script(tmp_path, source).splitlines()
    assert state == "stopped ()"
    told, *said = refusals
    assert told == "ERROR"
    for sentence in said:
        assert "flow ocr was started in process" in sentence
        assert "a fork of that" in sentence
        assert "with the lifespan of Aqueduct" in sentence
    assert len(said) == 2
    assert parent == "parent 21"
    if method == "spawn":
        assert child == "child 11"
    else:  # a limit of multiprocessing
        assert 'use mp_start_method="spawn", or start no flow before the fork' in child


@pytest.mark.parametrize(
    ("method", "function"),
    [
        ("spawn", "hold_the_interpreter"),
        ("forkserver", "work"),
        long("spawn", "work"),
        long("forkserver", "hold_the_interpreter"),
    ],
)
def test_a_fork_does_not_keep_workers_alive_when_its_parent_was_killed(
    tmp_path: Path, method: str, function: str
) -> None:
    source = f"""
        import asyncio
        import os
        import signal
        from pathlib import Path
        from fastapi_aqueduct import Flow
        from tests.handlers import Each, Job
        from tests.reliability.handlers import hold_the_interpreter, work

        async def main():
            async with Flow(Each({function}), mp_start_method="{method}") as flow:
                task = asyncio.create_task(flow.process(Job(path="begun", rounds=10**10, seconds=0), 60))
                while not (task.done() or Path("begun").exists()):
                    await asyncio.sleep(0.005)
                child = os.fork()
                if not child:
                    signal.pause()
                print(child, flow.statistics().steps[0].workers[0].pid, flush=True)
                await asyncio.Event().wait()

        if __name__ == "__main__":
            asyncio.run(main())
    """
    script = write_script(tmp_path, source)
    with subprocess.Popen(
        [sys.executable, script.name], cwd=tmp_path, env=script_environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        child, worker = map(int, process.stdout.readline().split())
        with Ends([worker]) as ends, Ends([child]) as child_ends:
            process.kill()
            assert ends.wait(1.0) == set()
            os.kill(child, signal.SIGKILL)
            assert child_ends.wait(DEADLINE) == set()


# The same under gunicorn

APPLICATION = """
    from fastapi import FastAPI
    from fastapi_aqueduct import Aqueduct, Flow, flow_endpoint
    from tests.asgi.handlers import Adder, Sum

    flow = Flow(Adder())
    {application}

    @app.get("/sum")
    @flow_endpoint(flow)
    async def add(task: Sum) -> int:
        return task.result
"""

GUNICORN = [
    *["gunicorn", "main:app", "--worker-class=asgi", "--preload", "--workers=2"],
    *["--bind=127.0.0.1:{port}", "--no-control-socket"],
]


@pytest.mark.parametrize(
    ("application", "status"),
    [("flow.start(); app = FastAPI()", 500), ("app = FastAPI(lifespan=Aqueduct(flow).lifespan)", 200)],
    ids=["started at import", "started by the lifespan"],
)
def test_a_preloaded_application_answers_every_request_at_once(tmp_path: Path, application: str, status: int) -> None:
    write_script(tmp_path, APPLICATION.format(application=application))

    def ask(port: int) -> int | None:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/sum?a=1&b=2", timeout=20, verify=False).status_code
        except httpx.ConnectError:
            return None

    with launched(tmp_path, GUNICORN) as (process, port):
        assert wait_until(lambda: process.poll() is not None or ask(port), DEADLINE)
        assert [ask(port) for _ in range(20)] == [status] * 20
        process.terminate()
        process.wait(DEADLINE)
    log = (tmp_path / "log").read_text()
    assert ("flow flow was started in process" in log) is (status == 500), log
    assert ("gunicorn --preload" in log) is (status == 500)
