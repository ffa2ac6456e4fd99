"""Pauses of the server itself are not charged to workers and tasks."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from fastapi_aqueduct.engine.scheduling.deadlines import Deadlines
from fastapi_aqueduct.engine.system.fair_timer import PAUSE, FairTimer, wait_fairly

from ..engine.test_deadlines import Expired, Item
from ..handlers import Gate, notes
from ..support import DEADLINE, eventually, forked, pids, running, script_environment, wait_until, write_script
from .handlers import SlowToLoad
from .support import complete

LIMIT = 4.0
"""Seconds that the server gives its workers: many times what they take, also on a busy machine."""

STOPPED = LIMIT + 2 * PAUSE
"""Seconds for which the server is stopped: longer than any of its limits by more than `PAUSE`."""

SERVER = """
    import asyncio, sys, uvloop
    from pathlib import Path
    from fastapi_aqueduct import Flow, FlowStep
    from tests.handlers import Each, Gate, Job
    from tests.reliability.handlers import LoadingAtGate, work

    async def main():
        async with Flow(Each(work), mp_start_method="forkserver"):
            pass  # the forkserver has imported everything by now
        steps = FlowStep(LoadingAtGate(Gate(Path()))), FlowStep(Each(work), handle_timeout=float(sys.argv[2]))
        flow = Flow(*steps, mp_start_method="forkserver")
        await flow.start_async(start_timeout=float(sys.argv[2]))
        print("started", flush=True)
        sys.stdin.readline()
        # One after the other: the last two wait in the queue when the server is stopped.
        jobs = [asyncio.create_task(flow.process(Job(seconds=0.1), float(sys.argv[2]))) for _ in range(4)]
        while not flow.statistics().steps[1].workers[0].in_flight:
            await asyncio.sleep(0.001)
        print("working", flush=True)
        ends = await asyncio.gather(*jobs, return_exceptions=True)
        print([str(end) for end in ends if isinstance(end, Exception)], flush=True)
        print([step.restarts for step in flow.statistics().steps], flush=True)
        await flow.stop()

    if __name__ == "__main__":
        with asyncio.Runner(loop_factory=getattr(sys.modules[sys.argv[1]], "new_event_loop")) as runner:
            runner.run(main())
"""


def stop_for_a_while(pid: int, meanwhile: Callable[[], object] = lambda: None) -> None:
    os.kill(pid, signal.SIGSTOP)
    meanwhile()
    time.sleep(STOPPED)  # the subject of the test, not a wait
    os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("loop", ["uvloop", pytest.param("asyncio", marks=pytest.mark.long)])
def test_a_server_that_was_stopped_takes_what_came_meanwhile(tmp_path: Path, loop: str) -> None:
    """During the start, whose time would be over, and with tasks in flight, in a worker's hands and in the queue."""
    script = write_script(tmp_path, SERVER)
    with subprocess.Popen(
        [sys.executable, script.name, loop, str(LIMIT)],
        cwd=tmp_path,
        env=script_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            gate = Gate(tmp_path)
            assert wait_until(gate.is_entered, DEADLINE)
            stop_for_a_while(server.pid, gate.open)
            assert server.stdout.readline() == "started\n"
            print(file=server.stdin, flush=True)
            assert server.stdout.readline() == "working\n"
            stop_for_a_while(server.pid)
            assert server.stdout.readline() == "[]\n"
            assert server.stdout.readline() == "[0, 0]\n"
            assert server.wait(DEADLINE) == 0
        finally:
            server.kill()


LOOPS = pytest.mark.parametrize(
    "factory",
    [asyncio.new_event_loop, pytest.param(uvloop.new_event_loop, marks=pytest.mark.long)],
    ids=["asyncio", "uvloop"],
)


@LOOPS
def test_a_replacement_that_was_ready_during_a_pause_is_not_killed(tmp_path: Path, factory: Any) -> None:
    slow, path = tmp_path / "slow", tmp_path / "starts"

    async def main() -> None:
        async with running(forked(SlowToLoad(slow, path), start_timeout=1.0), DEADLINE) as flow:
            slow.touch()
            os.kill(pids(flow)[0], signal.SIGKILL)
            await eventually(lambda: notes(path) == ["begins", "ends", "begins"])
            slow.unlink()
            time.sleep(2.0)  # a blocked event loop
            assert wait_until(lambda: len(notes(path)) == 4, DEADLINE)  # and longer, if the worker needs that
            await complete(flow, 1)
            assert flow.statistics().steps[0].restarts == 1

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


@LOOPS
def test_deadlines_move_by_a_pause(factory: Any) -> None:
    async def main() -> None:
        expired = Expired(2)
        deadlines = Deadlines(expired.note)
        began = time.monotonic()
        loop = asyncio.get_running_loop()
        for id, seconds in enumerate((0.2, 1.0)):
            deadlines.add(Item(id, began + seconds), loop)
        time.sleep(1.5)
        assert await expired.wait() == [0, 1]
        times = [item_late for _, item_late in expired.items]
        assert time.monotonic() - began >= 1.5 + 0.8  # of the second, 0.8 s were left when the first was due
        assert max(times) < PAUSE  # late by their new deadlines
        assert time.monotonic() - began < 1.5 + 1.0 + 2 * PAUSE

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


@LOOPS
def test_a_timer_and_a_wait_start_again_after_a_pause(factory: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        called = loop.create_future()
        timer = FairTimer(lambda: called.set_result(time.monotonic()))
        timer.start(loop, 0.3)
        waiting = asyncio.create_task(wait_fairly(loop.create_future(), 0.3))
        await asyncio.sleep(0)
        time.sleep(1.0)
        resumed = time.monotonic()
        assert await called - resumed >= 0.29
        assert not timer.is_running
        assert await waiting is False
        assert time.monotonic() - resumed >= 0.29

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
