"""What the statistics say of a step whose workers die or cannot start, and how soon it is back."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest
import uvloop

from fastapi_aqueduct import Flow, FlowStep
from fastapi_aqueduct.engine.timing import Timing

from ..handlers import Each, Job, tell_pid
from ..support import DEADLINE, engine_of, eventually, forked, outcome, pids, running
from .handlers import Dying, SlowToLoad
from .support import complete


def row(flow: Flow) -> tuple[int, bool, bool, bool]:
    step = flow.statistics().steps[0]
    return step.ready_workers, step.is_broken, step.is_given_up, step.expected_wait > 0


async def test_the_statistics_tell_ready_broken_and_given_up(tmp_path: Path) -> None:
    """What the probes say follows from these, row by row. Every load counts as a dear one here."""
    slow = tmp_path / "slow"
    timing = Timing(quick_load=0.0, max_deaths=1, give_up_after=1.5)
    async with running(Flow(FlowStep(SlowToLoad(slow)), timing=timing)) as flow:
        assert row(flow) == (1, False, False, False)
        slow.touch()
        os.kill(pids(flow)[0], signal.SIGKILL)
        await eventually(lambda: not pids(flow))
        assert row(flow) == (0, False, False, True)
        await eventually(lambda: row(flow) == (0, False, True, True))
        slow.unlink()
        await complete(flow, 1)
        assert row(flow) == (1, False, False, False)
        os.kill(pids(flow)[0], signal.SIGKILL)
        await eventually(lambda: not pids(flow))
        assert row(flow) == (0, True, False, True)
        # A broken step goes on at the longest interval, and says so.
        wait = flow.statistics().steps[0].expected_wait
        assert 10 < wait < 32
        refused = await outcome(flow.process(Job(), DEADLINE / 4))
        assert refused.retry_after == pytest.approx(wait, abs=2.0)


async def test_a_step_that_loads_quickly_is_back_at_once_after_any_number_of_deaths() -> None:
    async with running(Flow(FlowStep(Each(tell_pid)))) as flow:
        gaps = []
        for _ in range(8):
            (pid,) = pids(flow)
            await flow.process(Job(), DEADLINE)
            os.kill(pid, signal.SIGKILL)
            killed = time.monotonic()
            await eventually(lambda: pids(flow) not in ([], [pid]))  # noqa: B023
            gaps.append(time.monotonic() - killed)
        assert flow.statistics().steps[0].restarts == 8
        assert not flow.statistics().steps[0].is_broken
        # The waits of a step that loads slowly are 46 seconds in total, at least.
        assert sum(gaps) < 40.0, gaps


async def test_workers_that_die_as_soon_as_they_are_ready_do_not_turn_in_a_hot_loop(tmp_path: Path) -> None:
    path = tmp_path / "starts"
    doomed = tmp_path / "doomed"
    timing = Timing(first_wait=0.2, longest_spacing=0.8)
    async with running(Flow(FlowStep(Dying(path, doomed)), timing=timing)) as flow:
        doomed.touch()
        os.kill(pids(flow)[0], signal.SIGKILL)
        before = len(path.read_text().splitlines())
        began = time.monotonic()
        await eventually(lambda: flow.statistics().steps[0].restarts >= 5)
        launches = len(path.read_text().splitlines()) - before
        # 0.4, 0.8 and 0.8 seconds lie between the four launches at least whose workers died.
        assert time.monotonic() - began >= 2.0
        assert launches <= 5
        doomed.unlink()
        await complete(flow, 1)


async def test_one_slot_that_cannot_load_does_not_make_the_others_count_as_broken(tmp_path: Path) -> None:
    path, doomed = tmp_path / "starts", tmp_path / "doomed"
    timing = Timing(max_deaths=1, first_wait=0.01, longest_wait=0.1)
    async with running(Flow(FlowStep(Dying(path, doomed, in_start=True), nprocs=2), timing=timing)) as flow:
        doomed.touch()
        os.kill(pids(flow)[0], signal.SIGKILL)
        await eventually(lambda: flow.statistics().steps[0].restarts >= 5)
        assert row(flow) == (1, False, False, False)
        os.kill(pids(flow)[0], signal.SIGKILL)
        await eventually(lambda: row(flow)[:2] == (0, True))
        doomed.unlink()
        await complete(flow, 2)
        assert row(flow) == (2, False, False, False)


def test_the_statistics_are_there_while_a_worker_is_about_to_be_started_at_once() -> None:
    """Under uvloop, which makes no timer when there is no time to wait."""

    async def kill() -> None:
        async with running(forked(Each(tell_pid))) as flow:
            loop, waits = asyncio.get_running_loop(), []

            def ask() -> None:  # before the start, which comes in the next turn of the event loop
                waits.append(flow.statistics().steps[0].expected_wait)

            def ask_soon() -> None:
                loop.call_soon(ask)

            engine_of(flow).dispatcher.admission.on_change = ask_soon
            (pid,) = pids(flow)
            os.kill(pid, signal.SIGKILL)
            await eventually(lambda: pids(flow) not in ([], [pid]))
            assert len(waits) >= 2 and waits[0] > 0

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(kill())
