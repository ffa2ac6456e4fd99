"""Which task goes when: batches, priorities, full queues. On real workers; the rules alone are in `test_batching`."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from fastapi_aqueduct import BaseTaskHandler, Flow, FlowStep, TaskTimeout
from fastapi_aqueduct.exceptions import QueueFull, TaskNotPicklable

from .. import handlers
from ..handlers import Each, Gate, Job, Whole, notes
from ..support import DEADLINE, busy, contenders, engine_of, eventually, forked, fresh, get_ahead, running


async def submit(flow: Flow, **fields: Any) -> asyncio.Task[Any]:
    """Process a task in the background; it is in the queue when this returns."""
    queue = engine_of(flow).dispatcher.stages[0].queue
    queued = queue.count
    priority = fields.pop("priority", 0)
    job = Job(**fields)
    job.set_priority(priority)
    task = asyncio.create_task(flow.process(job, 60))
    await eventually(lambda: queue.count == queued + 1)
    return task


def is_asleep(pid: int) -> bool:
    """Tell whether a process waits for something (proc_pid_stat(5))."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def write_down(path: Path) -> tuple[BaseTaskHandler, dict[str, Any]]:
    return Each(handlers.enter_gate_if_any, handlers.write_down), {"path": path}


# Batches


async def test_a_full_batch_goes_without_waiting() -> None:
    async with running(forked(FlowStep(Whole(handlers.tell_batch), batch_size=3, batch_timeout=60))) as flow:
        jobs = [flow.process(Job(number=number), 30) for number in range(6)]
        tasks = await asyncio.wait_for(asyncio.gather(*jobs), DEADLINE)
        assert [task.batch for task in tasks] == [[0, 1, 2]] * 3 + [[3, 4, 5]] * 3
        assert [task.metrics.steps[0].batch_size for task in tasks] == [3] * 6


async def test_a_batch_that_does_not_fill_goes_when_its_first_task_has_waited_long_enough() -> None:
    async with running(forked(FlowStep(Whole(handlers.tell_batch), batch_size=8, batch_timeout=0.2))) as flow:
        first, second = await asyncio.gather(flow.process(Job(number=1)), flow.process(Job(number=2)))
        assert first.batch == second.batch == [1, 2]
        assert first.metrics.steps[0].queue_time >= 0.19


async def test_without_a_timeout_a_batch_is_what_is_there(tmp_path: Path) -> None:
    async with running(forked(FlowStep(Whole(handlers.tell_batch_at_gate), batch_size=4))) as flow:
        async with busy(flow, Gate(tmp_path), number=0):
            tasks = [await submit(flow, number=number) for number in range(1, 7)]
        batches = [(await task).batch for task in tasks]
        assert batches == [[1, 2, 3, 4]] * 4 + [[5, 6]] * 2
        assert (await flow.process(Job(number=7))).batch == [7]


@pytest.mark.processes
async def test_every_worker_of_a_step_gets_work(tmp_path: Path) -> None:
    steps = FlowStep(Each(handlers.enter_gate, handlers.tell_pid), nprocs=3)
    async with running(forked(steps)) as flow:
        gates = [Gate(tmp_path, str(number)) for number in range(3)]
        tasks = [asyncio.create_task(flow.process(Job(gate=gate), 60)) for gate in gates]
        await eventually(lambda: all(gate.is_entered() for gate in gates))
        for gate in gates:
            gate.open()
        assert len({(await task).pid for task in tasks}) == 3


async def test_a_step_of_one_worker_answers_in_the_order_of_arrival(tmp_path: Path) -> None:
    path = tmp_path / "order"
    handler, fields = write_down(path)
    async with running(forked(handler)) as flow:
        await asyncio.gather(*[flow.process(Job(number=number, **fields), DEADLINE) for number in range(200)])
    assert notes(path) == [str(number) for number in range(200)]


# Priorities


async def test_higher_priorities_go_first(tmp_path: Path) -> None:
    path = tmp_path / "order"
    handler, fields = write_down(path)
    async with running(forked(handler, queue_priorities=3)) as flow:
        async with busy(flow, Gate(tmp_path), number="held", **fields):
            tasks = [
                await submit(flow, number=f"{priority}{letter}", priority=priority, **fields)
                for letter in "ab"
                for priority in (0, 2, 1)
            ]
        await asyncio.gather(*tasks)
    assert notes(path) == ["held", "2a", "2b", "1a", "1b", "0a", "0b"]


async def test_a_priority_out_of_range_counts_as_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "order"
    handler, fields = write_down(path)
    async with running(forked(handler, queue_priorities=2)) as flow:
        async with busy(flow, Gate(tmp_path), number="held", **fields):
            tasks = [
                await submit(flow, number=str(priority), priority=priority, **fields) for priority in (-5, 0, 99, 1)
            ]
        await asyncio.gather(*tasks)
    assert notes(path) == ["held", "99", "1", "-5", "0"]


# Full queues


async def test_callers_wait_for_a_place_in_the_order_they_came(tmp_path: Path) -> None:
    path = tmp_path / "order"
    handler, fields = write_down(path)
    async with running(forked(handler, queue_size=2)) as flow:
        async with busy(flow, Gate(tmp_path), number="held", **fields):
            tasks = [asyncio.create_task(flow.process(Job(number=number, **fields), 60)) for number in range(50)]
            await eventually(lambda: flow.statistics().steps[0].queued == 2)
        await asyncio.gather(*tasks)
    assert notes(path) == ["held", *map(str, range(50))]


async def test_a_newcomer_does_not_overtake_those_who_wait_for_a_place(tmp_path: Path) -> None:
    path = tmp_path / "order"
    handler, fields = write_down(path)
    async with running(forked(handler, queue_size=1)) as flow:
        late: list[asyncio.Task[Any]] = []

        async def come_back(number: int) -> None:
            await flow.process(Job(number=number, **fields), 60)
            # In this turn of the loop there is a place, and others have waited longer for it.
            late.append(asyncio.create_task(flow.process(Job(number=number + 100, **fields), 60)))

        async with busy(flow, Gate(tmp_path), number="held", **fields):
            tasks = [asyncio.create_task(come_back(number)) for number in range(20)]
            await eventually(lambda: flow.statistics().steps[0].queued == 1)
        await asyncio.gather(*tasks)
        await asyncio.gather(*late)
    order = notes(path)
    assert order[1:21] == [str(number) for number in range(20)]


async def test_a_place_that_a_caller_does_not_need_goes_to_the_next() -> None:
    async with running(forked(Each(handlers.add_one), queue_size=1)) as flow:

        async def linger(number: int) -> int:
            job = await flow.process(Job(number=number), 60)
            # Holds the event loop up: by the time the next caller is let in the worker is idle and takes his task.
            time.sleep(0.001)
            return int(job.number)

        for _ in range(5):
            assert await asyncio.gather(*[linger(number) for number in range(30)]) == list(range(1, 31))


async def test_a_place_that_a_task_cannot_take_goes_to_the_next(tmp_path: Path) -> None:
    async with running(forked(Each(handlers.enter_gate_if_any), queue_size=1)) as flow:
        async with busy(flow, Gate(tmp_path)):
            first = await submit(flow)
            cannot_travel = asyncio.create_task(flow.process(Job(thing=lambda: None), 60))
            last = asyncio.create_task(flow.process(Job(), 60))
            await asyncio.sleep(0)  # one turn of the loop: both wait for a place
        with pytest.raises(TaskNotPicklable):
            await cannot_travel
        await asyncio.gather(first, last)


async def test_a_caller_that_leaves_while_it_waits_for_a_place_takes_none(tmp_path: Path) -> None:
    path = tmp_path / "order"
    handler, fields = write_down(path)
    async with running(forked(handler, queue_size=1)) as flow:
        async with busy(flow, Gate(tmp_path), number="held", **fields):
            tasks = [asyncio.create_task(flow.process(Job(number=number, **fields), 60)) for number in range(6)]
            await eventually(lambda: flow.statistics().steps[0].queued == 1)
            for task in tasks[1:4]:
                task.cancel()
            await asyncio.wait(tasks[1:4])
        await asyncio.gather(tasks[0], *tasks[4:])
    assert notes(path) == ["held", "0", "4", "5"]


@pytest.mark.own
async def test_check_entry_refuses_what_would_wait(tmp_path: Path) -> None:
    async with running(forked(Each(handlers.enter_gate_if_any), queue_size=2, queue_priorities=2)) as flow:
        flow.check_entry()
        async with busy(flow, Gate(tmp_path)):
            tasks = [await submit(flow) for _ in range(2)]
            with pytest.raises(QueueFull, match="2 tasks wait for step step1_Each") as caught:
                flow.check_entry()
            assert caught.value.retry_after > 0
            flow.check_entry(priority=1)  # each level has places of its own
        await asyncio.gather(*tasks)
        flow.check_entry()


async def test_places_that_become_free_because_tasks_end_unworked_are_given_to_those_who_wait(tmp_path: Path) -> None:
    async with running(forked(Each(handlers.enter_gate_if_any), queue_size=1)) as flow:
        async with busy(flow, Gate(tmp_path)):
            queued = await submit(flow, number=1)
            waiting = [asyncio.create_task(flow.process(Job(number=number), 60)) for number in (2, 3)]
            await eventually(lambda: contenders(flow) == 2)
            queued.cancel()  # while the worker is busy nothing else makes a place
            await eventually(lambda: contenders(flow) == 1)
            await fresh(flow)
            assert flow.statistics().steps[0].queued == 1
        await asyncio.gather(*waiting)


async def test_one_who_gives_up_waiting_for_a_place_takes_none(tmp_path: Path) -> None:
    async with running(forked(Each(handlers.enter_gate_if_any), queue_size=1)) as flow:
        async with busy(flow, Gate(tmp_path)):
            queued = await submit(flow, number=1)
            first, second = (asyncio.create_task(flow.process(Job(number=number), 60)) for number in (2, 3))
            await eventually(lambda: contenders(flow) == 2)
            queued.cancel()
            await asyncio.wait([queued])  # the place is promised to the first, who has not come in
            first.cancel()
            await eventually(lambda: flow.statistics().steps[0].queued == 1)
            assert not second.done()
        await second
        assert first.cancelled()


@pytest.mark.own
async def test_a_task_goes_to_an_idle_worker_at_once(tmp_path: Path) -> None:
    async with running(forked(Each(handlers.enter_gate_if_any))) as flow:
        await flow.process(Job())
        job = asyncio.create_task(flow.process(Job()))
        asyncio.get_running_loop().call_soon(lambda: seen.append(flow.statistics().steps[0].workers[0].in_flight))
        seen: list[int] = []
        await asyncio.sleep(0)  # one turn of the loop: the task of the caller, then the look
        assert seen == [1]
        await job


@pytest.mark.processes
async def test_a_worker_that_stays_awake_works_sleeps_and_works_again(tmp_path: Path) -> None:
    flow = forked(
        FlowStep(Each(handlers.add_one), busy_poll=0.02), FlowStep(Each(handlers.double), nprocs=2, busy_poll=0.01)
    )
    async with running(flow):
        workers = engine_of(flow).dispatcher.stages[0].workers
        for _ in range(3):
            jobs = await asyncio.gather(*[flow.process(Job(number=number)) for number in range(100)])
            assert [job.number for job in jobs] == [(number + 1) * 2 for number in range(100)]
            await eventually(lambda: not any(worker.busy_poll.is_active for worker in workers))
            await eventually(lambda: all(is_asleep(worker.pid) for worker in workers))


@pytest.mark.processes
async def test_an_event_loop_that_stays_awake_serves_others_and_gives_up(tmp_path: Path) -> None:
    async with running(forked(FlowStep(Each(handlers.enter_gate), busy_poll=0.05))) as flow:
        gate = Gate(tmp_path)
        task = asyncio.create_task(flow.process(Job(gate=gate), 60))
        await eventually(gate.is_entered)
        worker = engine_of(flow).dispatcher.stages[0].workers[0]
        await eventually(lambda: not worker.busy_poll.is_active)
        assert not task.done()
        gate.open()
        await task


async def test_a_queue_is_no_longer_right_after_a_timeout(tmp_path: Path) -> None:
    """A task whose time is over comes back at once, which must not make its worker look fast."""
    async with running(forked(Each(handlers.enter_gate_if_any), queue_size=2)) as flow:
        with pytest.raises(TaskTimeout):
            await flow.process(Job(), 0.0)
        await eventually(lambda: flow.statistics().steps[0].workers[0].in_flight == 0)
        async with busy(flow, Gate(tmp_path)):
            tasks = [await submit(flow) for _ in range(2)]
            await fresh(flow)
            assert flow.statistics().steps[0].queued == 2
            with pytest.raises(QueueFull):
                flow.check_entry()
        await asyncio.gather(*tasks)


async def test_the_queue_time_of_a_task_counts_its_time_in_the_hands_of_a_worker(tmp_path: Path) -> None:
    async with running(forked(Each(handlers.enter_gate_if_any))) as flow:
        await get_ahead(flow)
        began_at = time.monotonic()
        async with busy(flow, Gate(tmp_path)):
            task = asyncio.create_task(flow.process(Job(), 60))
            await eventually(lambda: flow.statistics().steps[0].workers[0].in_flight == 2)
            await asyncio.sleep(0.2)  # the time that is to be counted
        step = (await task).metrics.steps[0]
        assert 0.2 < step.queue_time < time.monotonic() - began_at
        assert step.handle_time < step.queue_time


async def test_a_full_later_step_makes_the_earlier_rest(tmp_path: Path) -> None:
    path = tmp_path / "first"
    flow = forked(Each(handlers.write_down), Each(handlers.enter_gate), queue_size=2)
    async with running(flow):
        gate = Gate(tmp_path)
        tasks = [
            asyncio.create_task(flow.process(Job(number=number, path=path, gate=gate), 60)) for number in range(20)
        ]
        await eventually(gate.is_entered)
        await eventually(lambda: [step.queued >= 2 for step in flow.statistics().steps] == [True, True])
        # One is in the hands of the second step, two wait for it, and what the first was given ahead may follow.
        await eventually(lambda: flow.statistics().steps[0].workers[0].in_flight == 0)
        assert len(notes(path)) < 10
        gate.open()
        await asyncio.gather(*tasks)
    assert len(notes(path)) == 20
