"""What becomes of workers whose server is killed, and of children that workers start themselves."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastapi_aqueduct import Flow, FlowStep, WorkerDied

from ..handlers import Each, Job, notes
from ..support import DEADLINE, Ends, outcome, pids, running, script_environment, wait_until, write_script
from . import handlers

SERVER = """
    import asyncio
    from pathlib import Path
    from fastapi_aqueduct import Flow, FlowStep
    from tests import handlers as common
    from tests.engine import async_handlers
    from tests.engine.async_handlers import Life
    from tests.handlers import Each, InLoop, Job
    from tests.reliability import handlers

    async def main():
        async with Flow(FlowStep({handler}, nprocs=2), mp_start_method="{method}") as flow:
            calls = [asyncio.create_task(flow.process(Job(path=Path("begun"), rounds={rounds}), 300))
                     for _ in range({calls})]
            while {calls} and not Path("begun").exists():
                await asyncio.sleep(0.005)
            print(*[worker.pid for worker in flow.statistics().steps[0].workers], flush=True)
            await asyncio.Event().wait()

    if __name__ == "__main__":
        asyncio.run(main())
"""


STREAMS = """
    import asyncio
    from fastapi_aqueduct import Flow
    from tests.handlers import Job
    from tests.reliability.test_stream_matrix import FORMS, until_paused

    async def main():
        forms = [form for name, form in FORMS.items() if name != "coroutine"]  # which does not pause
        flows = [Flow(form(), mp_start_method="forkserver") for form in forms]
        await asyncio.gather(*[flow.start_async() for flow in flows])
        streams = [flow.stream(Job(count=10**9), 60) for flow in flows]
        for stream in streams:
            await anext(stream)
        if {is_read}:
            readers = [asyncio.create_task(read(stream)) for stream in streams]
        else:
            await asyncio.gather(*map(until_paused, streams))
        print(*[flow.statistics().steps[0].workers[0].pid for flow in flows], flush=True)
        await asyncio.Event().wait()

    async def read(stream):
        async for item in stream:
            pass

    if __name__ == "__main__":
        asyncio.run(main())
"""


@contextlib.contextmanager
def server(directory: Path, **settings: Any) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """Run a server in a process of its own; give the process and its workers."""
    with running_script(directory, SERVER.format(**{"method": "spawn", "rounds": 0, "calls": 2, **settings})) as both:
        yield both


@contextlib.contextmanager
def running_script(directory: Path, source: str) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """Run a script that prints its workers; give its process and them."""
    script = write_script(directory, source)
    with subprocess.Popen(
        [sys.executable, script.name], cwd=directory, env=script_environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process, [int(pid) for pid in process.stdout.readline().split()]
        finally:
            process.kill()


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@pytest.mark.parametrize(
    ("handler", "calls"),
    [
        ("Each(handlers.work)", 0),
        ("Each(common.spin)", 2),
        ("Each(handlers.fork_and_spin)", 2),
        ("InLoop(async_handlers.sleep_and_note_path)", 2),
    ],
    ids=["idle", "busy in Python", "with a child that holds its channel", "in a coroutine that waits"],
)
def test_a_second_after_the_server_was_killed_no_worker_is_alive(
    tmp_path: Path, method: str, handler: str, calls: int
) -> None:
    with server(tmp_path, handler=handler, calls=calls, method=method) as (process, workers):
        children = [int(child) for child in notes(tmp_path / "begun")]
        with Ends([*workers, *children]) as ends:
            process.kill()
            assert ends.wait(1.0) == set()


def is_armed(pid: int) -> bool:
    """Tell whether the kernel would kill a worker with its server: until it has been idle for a moment."""
    flags = [path.read_text().split()[3] for path in Path(f"/proc/{pid}/fdinfo").iterdir()]
    return any(int(flag, 8) & os.O_ASYNC for flag in flags)


def test_an_idle_worker_with_an_event_loop_runs_on_stop_when_the_server_was_killed(tmp_path: Path) -> None:
    with server(tmp_path, handler='Life(Path("stopped"))', calls=0) as (process, workers):
        assert wait_until(lambda: not any(map(is_armed, workers)), DEADLINE)
        with Ends(workers) as ends:
            process.kill()
            assert ends.wait(1.0) == set()
    assert notes(tmp_path / "stopped") == ["stopped-True"] * 2


@pytest.mark.parametrize("is_read", [False, pytest.param(True, marks=pytest.mark.long)], ids=["paused", "read"])
def test_a_second_after_the_server_was_killed_no_worker_with_streams_is_alive(tmp_path: Path, is_read: bool) -> None:
    with running_script(tmp_path, STREAMS.format(is_read=is_read)) as (process, workers):
        assert len(workers) == 5
        with Ends(workers) as ends:
            process.kill()
            assert ends.wait(1.0) == set()


async def test_a_worker_may_start_processes_of_its_own() -> None:
    async with running(Flow(Each(handlers.use_children))) as flow:
        job = await flow.process(Job(), 60)
        assert (job.echo, job.power, job.message, job.exit_code) == (b"42\n", 1024, "hello", 0)


async def test_a_death_is_seen_although_a_child_holds_the_channel(tmp_path: Path) -> None:
    path = tmp_path / "child"
    async with running(Flow(FlowStep(Each(handlers.fork_and_spin), max_retries=0))) as flow:
        (pid,) = pids(flow)
        held = asyncio.create_task(outcome(flow.process(Job(path=path), 300)))
        while not notes(path):
            await asyncio.sleep(0.005)
        os.kill(pid, signal.SIGKILL)
        assert isinstance(await asyncio.wait_for(held, DEADLINE), WorkerDied)
