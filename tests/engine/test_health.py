"""The health of a model: `check` of a handler, called in workers between two calls."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastapi_aqueduct import BaseTaskHandler, ConfigurationError, Flow, FlowStep
from fastapi_aqueduct.engine.statistics import DeathCause
from fastapi_aqueduct.engine.timing import Timing
from fastapi_aqueduct.engine.workers.health import Health, limit_of

from ..handlers import Gate, Job
from ..support import engine_of, eventually, forked, pids, running
from .checked import (
    Checked,
    CheckedAsyncGenerator,
    CheckedCoroutine,
    CheckedGenerator,
    CheckedInLoop,
    CheckedRounds,
    Looking,
    PlainAwaited,
)

OFTEN = Timing(check_interval=0.02)


def flow_of(handler: BaseTaskHandler, **options: Any) -> Flow:
    return forked(FlowStep(handler, **options), timing=OFTEN)


def say(directory: Path, what: str) -> None:
    """Let the next checks find something; in one step, as workers read the file at any moment."""
    (directory / "next").write_text(what)
    (directory / "next").rename(directory / "says")


def checks(directory: Path) -> int:
    """Count the checks that have begun."""
    return len((directory / "checks").read_text().splitlines())


def problems(flow: Flow) -> tuple[str, ...]:
    return flow.statistics().steps[0].problems


@pytest.mark.parametrize(
    ("handler", "options"),
    [
        (Checked, {"batch_size": 4}),
        (PlainAwaited, {}),
        (CheckedRounds, {"batch_size": 4, "continuous": True}),
        (CheckedGenerator, {"concurrency": 2}),
        (CheckedCoroutine, {}),
        (CheckedInLoop, {}),
        (CheckedAsyncGenerator, {}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
async def test_a_worker_with_and_without_tasks_tells_how_its_model_is(
    handler: Callable[[Path], BaseTaskHandler], options: dict[str, Any], tmp_path: Path
) -> None:
    """The first time before it is ready. A worker that is never idle tells it, too, and answers its tasks."""
    say(tmp_path, "no")
    async with running(flow_of(handler(tmp_path), **options)) as flow:
        assert problems(flow) == ("check() returned False",)
        (pid,) = pids(flow)
        say(tmp_path, "")
        await eventually(lambda: not problems(flow))
        is_over = asyncio.Event()

        async def keep_busy() -> None:
            while not is_over.is_set():
                await flow.process(Job(left=5), 60)

        callers = [asyncio.create_task(keep_busy()) for _ in range(4)]
        before = checks(tmp_path)
        await eventually(lambda: checks(tmp_path) > before + 2)
        say(tmp_path, "raise")
        await eventually(lambda: problems(flow))
        assert problems(flow)[0].startswith("ValueError: the device is gone!!!")
        assert len(problems(flow)[0]) == 1000
        is_over.set()
        await asyncio.gather(*callers)
        assert pids(flow) == [pid]


async def test_the_log_says_when_that_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with running(flow_of(Checked(tmp_path))) as flow:
        with caplog.at_level(logging.INFO, "fastapi_aqueduct"):
            say(tmp_path, "exit")
            await eventually(lambda: problems(flow))
            before = checks(tmp_path)
            await eventually(lambda: checks(tmp_path) > before + 2)
            say(tmp_path, "")
            await eventually(lambda: not problems(flow))
        (pid,) = pids(flow)
        found = [record.getMessage() for record in caplog.records if "model" in record.getMessage()]
        name = f"the model of a worker of step1_Checked in flow flow (pid {pid})"
        assert found == [f"{name} is unhealthy: SystemExit: not this time", f"{name} is healthy again"]


async def test_nothing_that_a_check_returns_or_raises_ends_its_worker(tmp_path: Path) -> None:
    async with running(flow_of(Checked(tmp_path))) as flow:
        (pid,) = pids(flow)
        say(tmp_path, "unclear")
        await eventually(lambda: problems(flow) == ("ValueError: it is ambiguous",))
        say(tmp_path, "mute")
        await eventually(lambda: problems(flow) == ("Mute",))
        assert pids(flow) == [pid]


async def test_a_task_that_waits_for_the_end_of_a_check_does_not_hang(tmp_path: Path) -> None:
    """Its worker is in no call, so `handle_timeout` does not count."""
    gate = Gate(tmp_path, "check")
    async with running(flow_of(Checked(tmp_path), check_timeout=None)) as flow:
        (worker,) = engine_of(flow).dispatcher.stages[0].pool.all_workers()
        say(tmp_path, "gate")
        await eventually(gate.is_entered)
        task = asyncio.create_task(flow.process(Job(), 60))
        await eventually(lambda: worker.in_flight)
        task.cancel()
        await eventually(task.done)
        assert worker.in_flight
        assert worker.hanging_since() == math.inf
        gate.open()
        await flow.process(Job(), 60)


async def test_no_check_runs_in_the_middle_of_a_call(tmp_path: Path) -> None:
    """Also if the call reads what the worker is sent."""
    async with running(flow_of(Looking(tmp_path))) as flow:
        before = checks(tmp_path)
        for _ in range(3):
            await flow.process(Job(seconds=0.1), 60)
        await eventually(lambda: checks(tmp_path) > before + 3)
        assert problems(flow) == ()


async def test_a_check_that_does_not_return_ends_its_worker(tmp_path: Path) -> None:
    async with running(flow_of(Checked(tmp_path), check_timeout=0.5)) as flow:
        (pid,) = pids(flow)
        say(tmp_path, "hang")
        await eventually(lambda: pids(flow) not in ([pid], []))
        assert flow.statistics().steps[0].restarts_by_cause[DeathCause.HANG] >= 1
        await flow.process(Job(), 60)


async def test_the_time_limit_counts_from_the_beginning_of_the_check() -> None:
    """A worker in a long call has not begun to check."""
    asked, ended = asyncio.Event(), asyncio.Event()
    begun_at = 0.0

    def ask() -> bool:
        asked.set()
        return True

    health = Health(0.0, 0.01, lambda: begun_at, ask, ended.set)
    health.attach(asyncio.get_running_loop())
    assert not health.note("")
    await asked.wait()
    for _ in range(5):
        await asyncio.sleep(0.02)
        begun_at = -1.0  # the last one has ended
    assert not ended.is_set()
    begun_at = time.monotonic()
    await ended.wait()
    health.detach()


def test_a_coroutine_has_time_to_say_that_it_was_cancelled(tmp_path: Path) -> None:
    """Wherever it runs; one that blocks its worker is not cancelled."""
    for handler, limit in ((PlainAwaited, 6.0), (CheckedInLoop, 6.0), (Checked, 3.0), (CheckedCoroutine, 3.0)):
        assert limit_of(FlowStep(handler(tmp_path), check_timeout=3.0)) == limit
    assert limit_of(FlowStep(Checked(tmp_path), check_timeout=None)) is None


async def test_a_worker_that_cannot_be_asked_yet_is_asked_later() -> None:
    """It reports before it is ready, and the message that says so may come late."""
    answers, asked = iter([False, False, True]), asyncio.Event()

    def ask() -> bool:
        can_be_asked = next(answers)
        if can_be_asked:
            asked.set()
        return can_be_asked

    health = Health(0.0, None, lambda: 0.0, ask, lambda: pytest.fail("ended"))
    health.attach(asyncio.get_running_loop())
    health.note("")
    await asked.wait()
    health.detach()


async def test_a_worker_without_a_check_is_not_asked() -> None:
    health = Health(0.0, None, lambda: 0.0, lambda: pytest.fail("asked"), lambda: pytest.fail("ended"))
    health.attach(asyncio.get_running_loop())
    await asyncio.sleep(0.02)
    health.detach()


async def test_a_coroutine_that_takes_too_long_is_cancelled(tmp_path: Path) -> None:
    async with running(flow_of(CheckedInLoop(tmp_path), check_timeout=0.2)) as flow:
        (tmp_path / "waits").touch()
        await eventually(lambda: problems(flow) == ("it took longer than check_timeout=0.2 s",))
        await flow.process(Job(), 60)
        (tmp_path / "waits").unlink()
        await eventually(lambda: not problems(flow))


async def test_a_stop_does_not_wait_for_a_check(tmp_path: Path) -> None:
    """A coroutine that waits is cancelled by the stop, and its time limit is not waited for."""
    async with running(flow_of(CheckedInLoop(tmp_path), check_timeout=1000.0)):
        (tmp_path / "waits").touch()
        before = checks(tmp_path)
        await eventually(lambda: checks(tmp_path) > before)


def test_declarations_that_cannot_work(tmp_path: Path) -> None:
    class Comparing(Checked):
        def check(self, value: object) -> None:  # type: ignore[override]
            """Is for something else."""

    with pytest.raises(ConfigurationError, match=r"Comparing\.check takes arguments"):
        FlowStep(Comparing(tmp_path))
    with pytest.raises(ConfigurationError, match=r"Yielding\.check has a `yield`"):

        class Yielding(Checked):
            def check(self) -> Any:
                yield True

    with pytest.raises(ConfigurationError, match="check_timeout > 0"):
        FlowStep(Checked(tmp_path), check_timeout=0)
