"""Everything that can happen to a worker, at every point of its life, with one worker and with four.

Tests share a flow between the kinds of death, each of them a subtest.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from fastapi_aqueduct import Flow, FlowStep, TaskNotPicklable, WorkerDied
from fastapi_aqueduct.engine.timing import Timing

from ..support import DEADLINE, eventually, outcome, pids, running
from .handlers import Fate, Fated, FatedTask
from .support import complete, descriptors, is_stopped

FATES = ("SIGKILL", "SIGSEGV", "SIGSTOP", "exit0", "exit3", "memory", "exception")

ENDS = {"SIGKILL": -9, "SIGSEGV": -11, "SIGSTOP": -9, "exit0": 0, "exit3": 3}
"""Exit codes of those that are the end of a worker wherever they happen; a stopped one is killed in the end."""

ERRORS = {
    ("in handle", "memory"): MemoryError,
    ("in handle", "exception"): ValueError,
    ("before reply", "memory"): MemoryError,
    ("before reply", "exception"): TaskNotPicklable,
}
"""What a task fails with that is not the end of its worker."""

WORDS = {
    "SIGKILL": "was killed by SIGKILL",
    "SIGSEGV": "was killed by SIGSEGV",
    "SIGSTOP": "start_timeout=5 s",
    "exit0": "exited with code 0",
    "exit3": "exited with code 3",
    "memory": "MemoryError",
    "exception": "a bad day",
}
"""What the log says of a replacement that did not become ready."""

WORKERS = pytest.mark.parametrize(
    ("nprocs", "method"),
    [(1, "spawn"), *(pytest.param(4, method, marks=pytest.mark.long) for method in ("spawn", "forkserver"))],
)

HANDLE_TIMEOUT = 1.0

PROMPT = Timing(first_wait=0.05)
"""Replacements come soon; when they may is tested elsewhere."""

NEIGHBOURS = 6


def make_flow(directory: Path, nprocs: int, method: Any, timing: Timing = PROMPT, **settings: Any) -> Flow:
    step = FlowStep(Fated(directory), nprocs=nprocs, handle_timeout=HANDLE_TIMEOUT)
    return Flow(step, name="fated", mp_start_method=method, timing=timing, **settings)


def payload(number: int) -> bytes:
    return bytes([number]) * 20_000 + b"end"


async def work(flow: Flow, count: int = NEIGHBOURS) -> None:
    """Send harmless tasks; all must come back right."""
    tasks = [FatedTask(payload(number)) for number in range(count)]
    done = await asyncio.gather(*[outcome(flow.process(task, DEADLINE)) for task in tasks])
    for task in done:
        assert not isinstance(task, Exception), task
        assert task.answer == task.payload[::-1]


async def is_as_before(flow: Flow, nprocs: int, files: int) -> None:
    """Wait until nothing tells any more that something has happened."""
    await complete(flow, nprocs)
    await eventually(lambda: flow.statistics().arena.blocks == 0)
    await eventually(lambda: descriptors() == files)
    assert flow.statistics().in_flight == 0


@WORKERS
@pytest.mark.parametrize("place", ["in handle", "before reply"])
async def test_in_the_hands_of_a_worker(
    tmp_path: Path, subtests: pytest.Subtests, place: str, nprocs: int, method: str
) -> None:
    async with running(make_flow(tmp_path, nprocs, method)) as flow:
        for name in FATES:
            with subtests.test(fate=name):
                files = descriptors()
                before = set(pids(flow))
                victim = outcome(flow.process(FatedTask(payload(9), Fate(name), place), DEADLINE))
                error, _ = await asyncio.gather(victim, work(flow))
                if name in ENDS:
                    assert isinstance(error, WorkerDied)
                    assert (error.step, error.exit_code) == ("step1_Fated", ENDS[name])
                    assert f"step1_Fated (pid {error.pid})" in str(error)
                    assert ("handle_timeout=1 s" in str(error)) == (name == "SIGSTOP")
                    assert len(before - set(pids(flow))) >= 1
                else:
                    assert isinstance(error, ERRORS[place, name]), repr(error)
                    assert set(pids(flow)) == before
                await is_as_before(flow, nprocs, files)


@WORKERS
async def test_before_the_worker_has_read_its_tasks(
    tmp_path: Path, subtests: pytest.Subtests, nprocs: int, method: str
) -> None:
    async with running(make_flow(tmp_path, nprocs, method)) as flow:
        for name in FATES:
            with subtests.test(fate=name):
                files = descriptors()
                stopped = pids(flow)
                for pid in stopped:
                    os.kill(pid, signal.SIGSTOP)
                await eventually(lambda: all(map(is_stopped, stopped)))  # noqa: B023
                waiting = asyncio.create_task(work(flow))
                await eventually(
                    lambda: all(worker.in_flight for worker in flow.statistics().steps[0].workers),
                )
                for pid in stopped:
                    befall(tmp_path, pid, name)
                    if name != "SIGSTOP":
                        os.kill(pid, signal.SIGCONT)
                await waiting
                await is_as_before(flow, nprocs, files)
                assert not set(stopped) & set(pids(flow))


@WORKERS
async def test_idle(tmp_path: Path, subtests: pytest.Subtests, nprocs: int, method: str) -> None:
    async with running(make_flow(tmp_path, nprocs, method)) as flow:
        for name in FATES:
            with subtests.test(fate=name):
                files = descriptors()
                victim = pids(flow)[-1]
                befall(tmp_path, victim, name)
                if name == "SIGSTOP":
                    # It is noticed only when there is work, and then no task is lost.
                    await work(flow, 8 * nprocs)
                await eventually(lambda: victim not in pids(flow))  # noqa: B023
                await is_as_before(flow, nprocs, files)
                await work(flow)


@WORKERS
async def test_starting(
    tmp_path: Path, subtests: pytest.Subtests, caplog: pytest.LogCaptureFixture, nprocs: int, method: str
) -> None:
    flow = make_flow(tmp_path, nprocs, method, start_timeout=5.0)
    await flow.start_async(start_timeout=DEADLINE)
    try:
        for name in FATES:
            with subtests.test(fate=name):
                files = descriptors()
                caplog.clear()
                trap = tmp_path / "starting"
                trap.write_text(name)
                os.kill(pids(flow)[-1], signal.SIGKILL)
                await eventually(lambda: not trap.exists())  # noqa: B023
                await work(flow)
                await is_as_before(flow, nprocs, files)
                assert "step1_Fated in flow fated" in caplog.text
                assert WORDS[name] in caplog.text
    finally:
        await flow.stop()


@WORKERS
@pytest.mark.parametrize("name", FATES)
async def test_stopping(tmp_path: Path, name: str, nprocs: int, method: str) -> None:
    files = descriptors()
    flow = make_flow(tmp_path, nprocs, method, timing=Timing(stop_time=0.5))
    await flow.start_async()
    (tmp_path / "stopping").write_text(name)
    tasks = [FatedTask(payload(number)) for number in range(NEIGHBOURS)]
    waiting = [asyncio.create_task(outcome(flow.process(task, DEADLINE))) for task in tasks]
    await asyncio.sleep(0)
    assert flow.statistics().in_flight == NEIGHBOURS
    started = time.monotonic()
    await asyncio.wait_for(flow.stop(), DEADLINE)
    # A stopped process takes no SIGTERM: its time to leave, then a second for that.
    assert time.monotonic() - started < 20.0
    assert await asyncio.gather(*waiting) == tasks
    assert all(task.answer == task.payload[::-1] for task in tasks)
    del tasks, waiting  # their answers are views
    gc.collect()
    await eventually(lambda: descriptors() == files)


def befall(directory: Path, pid: int, name: str) -> None:
    """Have something happen to a worker that has no task in its hands."""
    if name.startswith("SIG"):
        os.kill(pid, signal.Signals[name])
    else:
        (directory / f"idle-{pid}").write_text(name)
        os.kill(pid, signal.SIGUSR2)
