"""Tasks whose workers die, alone and in batches, and their neighbours."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastapi_aqueduct import Flow, FlowStep, HandlerError, WorkerDied

from .. import handlers as common
from ..handlers import Each, Job, OddError, Whole, notes
from ..support import DEADLINE, eventually, outcome, pids, running
from . import handlers
from .handlers import Fate
from .support import complete

# The death of a worker


@pytest.mark.parametrize("nprocs", [1, 3])
async def test_a_poisonous_task_is_refused_after_two_deaths_and_its_neighbours_succeed(
    tmp_path: Path, nprocs: int
) -> None:
    """Cheap tasks: many are in the hands of the worker that dies, and many of them are done but not answered."""
    path = tmp_path / "deaths"
    async with running(Flow(FlowStep(Each(handlers.meet_fate), nprocs=nprocs))) as flow:
        await asyncio.gather(*[flow.process(Job(fate=None)) for _ in range(100)])  # they are given many at a time
        for _ in range(3):
            path.unlink(missing_ok=True)
            jobs = [Job(fate=None) for _ in range(60)]
            jobs[30] = Job(fate=Fate("SIGKILL"), path=path)
            ends = await asyncio.gather(*[outcome(flow.process(job, DEADLINE)) for job in jobs])
            poison = ends.pop(30)
            assert isinstance(poison, WorkerDied)
            assert [str(poison.pid)] == notes(path)[1:]
            assert len(notes(path)) == 2
            assert [end for end in ends if isinstance(end, Exception)] == []
        assert flow.statistics().failed == 3
        assert flow.statistics().steps[0].retries >= 3


async def test_an_input_that_is_fatal_to_unpack_is_refused_after_two_deaths() -> None:
    async with running(Flow(Each(common.tell_pid))) as flow:
        jobs = [Job(), Job(value=handlers.Lethal(os.getpid())), Job()]
        one, died, other = await asyncio.gather(*[outcome(flow.process(job, DEADLINE)) for job in jobs])
        assert isinstance(died, WorkerDied)
        assert died.exit_code == 9
        assert (one, other) == (jobs[0], jobs[2])
        assert flow.statistics().steps[0].restarts == 2
        await complete(flow, 1)


async def test_a_task_survives_the_death_of_one_worker(tmp_path: Path) -> None:
    trap, path = tmp_path / "trap", tmp_path / "pids"
    trap.touch()
    async with running(Flow(Each(handlers.meet_fate_once))) as flow:
        job = await flow.process(Job(fate=Fate("exit0"), trap=trap, path=path), DEADLINE)
        first, second = map(int, notes(path))
        assert job.pid == second != first
        assert flow.statistics().steps[0].retries == 1
        assert flow.statistics().failed == 0


@pytest.mark.parametrize("max_retries", [0, 2])
async def test_a_step_says_how_often_a_task_is_tried_again(tmp_path: Path, max_retries: int) -> None:
    path = tmp_path / "deaths"
    async with running(Flow(FlowStep(Each(handlers.meet_fate), max_retries=max_retries))) as flow:
        died = await outcome(flow.process(Job(fate=Fate("exit3"), path=path), DEADLINE))
        assert isinstance(died, WorkerDied)
        assert died.exit_code == 3
        assert len(notes(path)) == max_retries + 1
        assert notes(path)[-1] == str(died.pid)


async def test_a_task_with_a_shared_field_is_never_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "deaths"
    async with running(Flow(FlowStep(Each(handlers.meet_fate), max_retries=3))) as flow:
        job = Job(fate=Fate("SIGKILL"), path=path, image=np.ones(30_000, np.uint8))
        job.share_value("image")
        assert isinstance(await outcome(flow.process(job, DEADLINE)), WorkerDied)
        assert len(notes(path)) == 1
        await complete(flow, 1)
        del job


async def test_a_batch_whose_worker_died_is_tried_again_one_by_one() -> None:
    step = FlowStep(Whole(handlers.die_together), batch_size=5, batch_timeout=5.0)
    async with running(Flow(step)) as flow:
        jobs = [Job(is_bad=number == 2) for number in range(5)]
        ends = await asyncio.gather(*[outcome(flow.process(job, DEADLINE)) for job in jobs])
        assert isinstance(ends.pop(2), WorkerDied)
        assert [job.batch for job in ends] == [1] * 4
        assert flow.statistics().steps[0].retries >= 5


async def test_a_task_in_a_later_step_is_tried_again_there_only(tmp_path: Path) -> None:
    trap, path = tmp_path / "trap", tmp_path / "pids"
    trap.touch()
    async with running(Flow(Each(common.add_one), Each(handlers.meet_fate_once))) as flow:
        job = await flow.process(Job(number=1, fate=Fate("SIGKILL"), trap=trap, path=path), DEADLINE)
        assert job.number == 2
        assert [step.retries for step in flow.statistics().steps] == [0, 1]


async def test_a_task_that_is_over_is_not_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "deaths"
    async with running(Flow(FlowStep(Each(handlers.stop_itself), handle_timeout=1.0))) as flow:
        held = asyncio.create_task(outcome(flow.process(Job(path=path, payload=b"x" * 30_000), 0.2)))
        assert "in the hands of step" in str(await held)
        (pid,) = pids(flow)
        await eventually(lambda: pids(flow) not in ([], [pid]))
        assert flow.statistics().steps[0].retries == 0
        assert flow.statistics().timed_out == 1


# Exceptions of a batch


async def test_a_batch_that_failed_is_done_again_from_fresh_copies() -> None:
    """What the handler did to its tasks before it raised is not seen by the second run."""
    async with running(Flow(FlowStep(Whole(handlers.spoil_and_fail), batch_size=4, batch_timeout=5.0))) as flow:
        jobs = [
            Job(
                number=number,
                is_bad=number == 1,
                words=["hello"],
                image=np.full(30_000, number, np.uint8),
                payload=bytes([number]) * 30_000,
            )
            for number in range(4)
        ]
        ends: list[Any] = await asyncio.gather(*[outcome(flow.process(job, DEADLINE)) for job in jobs])
        assert isinstance(ends.pop(1), ValueError)
        assert [job.number for job in ends] == [1000, 1002, 1003]
        assert all(job.words == ["hello", "spoiled"] for job in ends)
        assert all(job.image.tolist() == [number + 1] * 10 for job, number in zip(ends, (0, 2, 3), strict=True))
        assert all(job.batch == 1 for job in ends)
        # The one that failed looks as it did before.
        assert (jobs[1].number, jobs[1].words, len(jobs[1].image)) == (1, ["hello"], 30_000)
        assert not hasattr(jobs[1], "extra")
        assert len(pids(flow)) == 1
        del jobs, ends


async def test_a_batch_of_a_step_that_must_run_at_most_once_is_not_done_again() -> None:
    step = FlowStep(Whole(handlers.fail_together_work_alone), batch_size=4, batch_timeout=5.0, max_retries=0)
    async with running(Flow(step)) as flow:
        ends = await asyncio.gather(*[outcome(flow.process(Job(number=number), DEADLINE)) for number in range(4)])
        assert [type(end) for end in ends] == [ValueError] * 4


async def test_a_batch_with_a_shared_field_is_not_done_again() -> None:
    step = FlowStep(Whole(handlers.fail_together_work_alone), batch_size=2, batch_timeout=5.0)
    async with running(Flow(step)) as flow:
        jobs = [Job(seconds=0, image=np.ones(30_000, np.uint8)) for _ in range(2)]
        jobs[0].share_value("image")
        ends = await asyncio.gather(*[outcome(flow.process(job, DEADLINE)) for job in jobs])
        assert [str(end) for end in ends] == ["not together"] * 2
        del jobs, ends


@pytest.mark.parametrize(
    ("error", "kind", "name"), [("locked", HandlerError, "LockedError"), ("odd", OddError, "OddError")]
)
async def test_an_exception_harms_no_neighbour(error: str, kind: type[Exception], name: str) -> None:
    """One that cannot travel, and one that travels although its class cannot be called with its ``args``."""
    async with running(Flow(FlowStep(Each(handlers.raise_if_told), batch_size=3, batch_timeout=5.0))) as flow:
        before = pids(flow)
        jobs = [Job(error=None), Job(error=error), Job(error=None)]
        ends = await asyncio.gather(*[outcome(flow.process(job, DEADLINE)) for job in jobs])
        failed = ends.pop(1)
        assert isinstance(failed, kind)
        assert name in getattr(failed, "type_name", type(failed).__name__)
        assert name in str(failed.__cause__)
        assert ends == [jobs[0], jobs[2]]
        assert pids(flow) == before
        os.kill(before[0], 0)
