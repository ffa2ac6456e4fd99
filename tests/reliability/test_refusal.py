"""What is refused at once because it could not be done in time."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from fastapi_aqueduct import DeadlineUnreachable, Flow, FlowStep, StepUnavailable

from ..handlers import Each, Job
from ..support import DEADLINE, eventually, outcome, pids, running
from . import handlers
from .handlers import SlowToLoad


async def test_without_a_ready_worker_work_is_refused_with_the_expected_wait(tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    async with running(Flow(SlowToLoad(slow), name="ocr")) as flow:
        slow.touch()
        os.kill(pids(flow)[0], signal.SIGKILL)
        await eventually(lambda: not pids(flow))
        for refuse in (lambda: flow.process(Job(), 0.05), lambda: checked(flow)):
            refused = asyncio.create_task(outcome(refuse()))
            await asyncio.sleep(0)
            assert refused.done()  # in one turn of the event loop
            error = refused.result()
            assert isinstance(error, StepUnavailable)
            assert "step1_SlowToLoad of flow ocr has no ready worker" in str(error)
            assert 0 < error.retry_after < 10
        # Who has time for the replacement may wait for it.
        patient = asyncio.create_task(flow.process(Job(), 60))
        await eventually(lambda: flow.statistics().steps[0].queued == 1)
        slow.unlink()
        assert (await asyncio.wait_for(patient, DEADLINE)).pid == pids(flow)[0]
        flow.check_entry()


async def checked(flow: Flow) -> None:
    flow.check_entry(timeout_sec=60)


async def test_one_worker_of_two_is_enough(tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    async with running(Flow(FlowStep(SlowToLoad(slow), nprocs=2))) as flow:
        slow.touch()
        os.kill(pids(flow)[0], signal.SIGKILL)
        await eventually(lambda: len(pids(flow)) == 1)
        flow.check_entry()
        assert (await flow.process(Job())).pid == pids(flow)[0]
        slow.unlink()


async def test_a_dead_later_step_closes_the_entry(tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    async with running(Flow(Each(handlers.work), SlowToLoad(slow))) as flow:
        slow.touch()
        os.kill(pids(flow, 1)[0], signal.SIGKILL)
        await eventually(lambda: not pids(flow, 1))
        with pytest.raises(StepUnavailable, match="step2_SlowToLoad"):
            flow.check_entry()
        slow.unlink()
        await eventually(lambda: pids(flow, 1))
        flow.check_entry()


async def test_a_task_that_would_come_too_late_at_the_measured_rate_is_refused() -> None:
    async with running(Flow(Each(handlers.work))) as flow:
        flow.check_entry(timeout_sec=0.001)  # nothing was measured yet
        for _ in range(5):
            await flow.process(Job(seconds=0.1))
        waiting = [asyncio.create_task(outcome(flow.process(Job(seconds=0.1), 60))) for _ in range(20)]
        await eventually(lambda: flow.statistics().steps[0].queued >= 15)
        with pytest.raises(DeadlineUnreachable, match=r"would take about \d+\.\d s now and has 0.3 s") as caught:
            flow.check_entry(timeout_sec=0.3)
        assert caught.value.retry_after >= 1.0
        flow.check_entry(timeout_sec=30)
        await asyncio.gather(*waiting)
        flow.check_entry(timeout_sec=0.3)


async def test_many_workers_make_the_estimate_shorter() -> None:
    async with running(Flow(FlowStep(Each(handlers.work), nprocs=4))) as flow:
        await asyncio.gather(*[flow.process(Job(seconds=0.1)) for _ in range(16)])
        waiting = [asyncio.create_task(flow.process(Job(seconds=0.1), 60)) for _ in range(16)]
        await eventually(lambda: flow.statistics().steps[0].queued >= 10)
        flow.check_entry(timeout_sec=1.2)
        await asyncio.gather(*waiting)
