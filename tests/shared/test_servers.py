"""One pipeline for all processes of a server: who starts it, and what the deaths of its processes mean."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from ..asgi.service import Service, children, launched
from ..support import DEADLINE, Ends, wait_until, write_script
from .support import processes

WORK = """
    import os

    from fastapi_aqueduct import BaseTask, BaseTaskHandler

    class Number(BaseTask):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number
            self.worker = self.pipeline = 0

    class Multiply(BaseTaskHandler):
        def handle(self, *tasks: Number) -> None:
            for task in tasks:
                task.number *= FACTOR
                task.worker, task.pipeline = os.getpid(), os.getppid()

    FACTOR = 2
"""

SOURCE = """
    import os

    from fastapi import FastAPI

    from fastapi_aqueduct import Aqueduct, Flow, FlowStep
    from work import Multiply, Number

    flow = Flow(FlowStep(Multiply(), nprocs=2), name="ocr")
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.get("/multiply")
    async def multiply(number: int) -> dict[str, int]:
        task = await flow.process(Number(number), 20)
        answer = {"number": task.number, "worker": task.worker, "pipeline": task.pipeline}
        return answer | {"server": os.getpid()}
"""

PORT = "--port={port}"
ASGI = ("main:app", "--worker-class=asgi", "--no-control-socket", "--bind=127.0.0.1:{port}", "--timeout=60")
COMMANDS = {
    # On a busy machine a process that starts answers the supervisor late, which kills it then.
    "uvicorn": ["uvicorn", "main:app", PORT, "--workers=2", "--timeout-worker-healthcheck=60"],
    "uvicorn-reload": ["uvicorn", "main:app", PORT, "--reload"],
    "gunicorn": ["gunicorn", *ASGI, "--workers=2"],
    "granian": ["granian", "main:app", "--interface=asgi", PORT, "--workers=2", "--respawn-failed-workers"],
    "hypercorn": ["hypercorn", "main:app", "--bind=127.0.0.1:{port}", "--workers=2"],
}
"""How each server is started with two processes."""

SURVIVING = ("uvicorn", "granian", "hypercorn")
"""Servers whose processes serve on when their supervisor has been killed."""

long = pytest.mark.long


class Answer(NamedTuple):
    """What an answer says of the processes that it has passed through."""

    number: int
    worker: int
    pipeline: int
    server: int


class Fleet(Service):
    """A server with several processes."""

    def ask(self, number: int = 21) -> Answer:
        """Ask in a connection of its own, so that any of the processes may answer."""
        response = httpx.get(f"{self.url}/multiply?number={number}", timeout=DEADLINE, verify=False)
        assert response.status_code == 200, response.text
        return Answer(**response.json())

    def asks_well(self) -> Answer | None:
        """Ask, where a refusal is no surprise."""
        with contextlib.suppress(httpx.TransportError, AssertionError):
            return self.ask()
        return None

    def answers_of(self, count: int) -> dict[int, Answer]:
        """Ask until that many processes have answered; return the last answer of each."""
        found: dict[int, Answer] = {}

        def have_answered() -> bool:
            if (answer := self.asks_well()) is not None:
                found[answer.server] = answer
            return len(found) == count

        assert wait_until(have_answered, 2 * DEADLINE), (found, self.log())
        return found

    def kill_pipeline(self, pid: int) -> int:
        """Kill the pipeline process; return the next one, which all processes use."""
        with Ends(children(pid)) as ends:
            kill(pid)
            assert ends.wait(DEADLINE) == set()
        assert wait_until(self.asks_well, 2 * DEADLINE), self.log()
        (successor,) = {answer.pipeline for answer in self.answers_of(2).values()}
        assert successor != pid
        return successor

    def sockets(self) -> list[Path]:
        return list(self.directory.glob("aqueduct/*.sock"))


@contextlib.contextmanager
def serving(directory: Path, server: str, pipeline: str) -> Iterator[Fleet]:
    """Run a server with several processes; wait until the first one is ready."""
    write_script(directory, WORK, "work.py")
    write_script(directory, SOURCE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(directory))
        patch.setenv("AQUEDUCT_PIPELINE", pipeline)
        with launched(directory, COMMANDS[server]) as (process, port):
            fleet = Fleet(directory, process, port)
            try:
                assert wait_until(lambda: process.poll() is not None or fleet.probe() == 200, 3 * DEADLINE)
                assert process.poll() is None
                yield fleet
            except BaseException:
                print(fleet.log())
                raise


def kill(*pids: int) -> None:
    with Ends(pids) as ends:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        assert ends.wait(DEADLINE) == set()


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.parametrize(
    "server", ["uvicorn", *[pytest.param(name, marks=long) for name in ("gunicorn", "granian", "hypercorn")]]
)
def test_one_pipeline_serves_all_processes_and_outlives_each(server: str, tmp_path: Path) -> None:
    with serving(tmp_path, server, "host") as fleet:
        answers = fleet.answers_of(2)
        (pipeline,) = {answer.pipeline for answer in answers.values()}
        assert all(answer.number == 42 for answer in answers.values())

        starter = parent_of(pipeline)
        assert starter in answers
        if server != "hypercorn":  # which ends all of its processes when one is killed
            kill(starter)
            for _ in range(20):
                assert fleet.ask().pipeline == pipeline
            assert starter not in fleet.answers_of(2)

        successor = fleet.kill_pipeline(pipeline)
        for _ in range(20):
            assert fleet.ask().pipeline == successor

        with Ends([successor, *children(successor)]) as ends:
            fleet.process.terminate()
            assert fleet.process.wait(2 * DEADLINE) in (0, -signal.SIGTERM)
            # The last process waits for the end of the pipeline.
            assert ends.wait(DEADLINE) == set()
        assert fleet.sockets() == []


@long
def test_a_server_that_ends_with_the_first_process_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    with serving(tmp_path, "hypercorn", "host") as fleet:
        answers = fleet.answers_of(2)
        (pipeline,) = {answer.pipeline for answer in answers.values()}
        with Ends([pipeline, *answers, *children(pipeline)]) as ends:
            kill(parent_of(pipeline))
            assert ends.wait(2 * DEADLINE) == set()
        fleet.process.wait(2 * DEADLINE)
        assert fleet.sockets() == []


@long
@pytest.mark.parametrize("server", ["uvicorn", "gunicorn", "granian", "hypercorn"])
def test_when_the_supervisor_is_killed_its_processes_serve_on_with_one_pipeline_or_nothing_is_left(
    server: str, tmp_path: Path
) -> None:
    with serving(tmp_path, server, "host") as fleet:
        servers = set(fleet.answers_of(2))
        pipeline = fleet.ask().pipeline
        kill(fleet.process.pid)
        fleet.process.wait()
        if server in SURVIVING:
            assert set(fleet.answers_of(2)) == servers
            assert fleet.ask().pipeline == pipeline
            pipeline = fleet.kill_pipeline(pipeline)
            for pid in servers:
                os.kill(pid, signal.SIGTERM)
        assert wait_until(lambda: not processes(tmp_path), 2 * DEADLINE), processes(tmp_path)
        assert fleet.sockets() == []


@long
def test_while_its_pipeline_hangs_a_server_is_not_ready(tmp_path: Path) -> None:
    with serving(tmp_path, "uvicorn", "host") as fleet:
        pipeline = fleet.ask().pipeline
        os.kill(pipeline, signal.SIGSTOP)
        try:
            assert wait_until(lambda: fleet.probe() == 503, 2 * DEADLINE)
        finally:
            os.kill(pipeline, signal.SIGCONT)
        assert wait_until(lambda: fleet.probe() == 200, DEADLINE)
        assert fleet.ask().pipeline == pipeline


@pytest.mark.parametrize(
    "server", [pytest.param(name, marks=long) for name in ("uvicorn", "gunicorn", "granian", "hypercorn")]
)
def test_processes_with_pipelines_of_their_own_cause_one_warning(server: str, tmp_path: Path) -> None:
    with serving(tmp_path, server, "own") as fleet:
        assert wait_until(lambda: "with 2 workers of its own" in fleet.log(), DEADLINE)
        fleet.answers_of(2)
        assert fleet.log().count("makes all processes share one pipeline") == 1


@long
@pytest.mark.parametrize("server", ["uvicorn", "gunicorn"])
def test_after_a_rolling_reload_with_changed_code_a_second_pipeline_runs_it(server: str, tmp_path: Path) -> None:
    """The first one serves the processes of the old code until they have left. gunicorn stops all of them at once."""
    with serving(tmp_path, server, "host") as fleet:
        (pipeline,) = {answer.pipeline for answer in fleet.answers_of(2).values()}
        write_script(tmp_path, WORK.replace("FACTOR = 2", "FACTOR = 3"), "work.py")
        with Ends([pipeline]) as ends:
            fleet.process.send_signal(signal.SIGHUP)
            assert wait_until(lambda: (answer := fleet.asks_well()) is not None and answer.number == 63, 2 * DEADLINE)
            assert ends.wait(2 * DEADLINE) == set()
        assert {answer.number for answer in fleet.answers_of(2).values()} == {63}
        warned = fleet.log().count("gets a second pipeline process in the server with the parent")
        assert warned == 1 if server == "uvicorn" else warned <= 1


@long
def test_after_a_reload_the_new_code_runs(tmp_path: Path) -> None:
    with serving(tmp_path, "uvicorn-reload", "host") as fleet:
        assert fleet.ask().number == 42
        write_script(tmp_path, WORK.replace("FACTOR = 2", "FACTOR = 3"), "work.py")
        assert wait_until(lambda: (answer := fleet.asks_well()) is not None and answer.number == 63, 2 * DEADLINE)
