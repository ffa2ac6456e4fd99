"""What is measured of a flow: the histograms, and the records of single tasks."""

from __future__ import annotations

import asyncio
import threading
from random import Random
from typing import Any

import pytest

from fastapi_aqueduct import Flow, FlowStep
from fastapi_aqueduct.engine.scheduling.accumulator import BLOCK, Accumulator
from fastapi_aqueduct.engine.scheduling.meter import SECONDS
from fastapi_aqueduct.engine.statistics import Histogram, StepHistograms
from fastapi_aqueduct.reports import TaskRecord

from .. import handlers
from ..handlers import Each, Job, Yielding
from ..support import eventually, forked, outcome, running
from .streaming import items_of

NAP = 0.1


def test_a_value_on_a_bound_belongs_to_the_range_below() -> None:
    accumulator = Accumulator([1, 2])
    for value in (0, 1, 1.5, 2, 3):
        accumulator.add(value)
    assert accumulator.histogram() == Histogram((1, 2), (2, 2, 1), 7.5)


def test_values_are_counted_once_however_many_there_are() -> None:
    values = [Random(1).expovariate(10) for _ in range(3 * BLOCK + 7)]
    accumulator = Accumulator(SECONDS)
    for value in values:
        accumulator.add(value)
    assert len(accumulator.values) == 7
    for _ in range(2):
        histogram = accumulator.histogram()
        assert histogram.count == len(values)
        assert histogram.sum == pytest.approx(sum(values))
        edges = [0.0, *SECONDS, float("inf")]
        assert list(histogram.counts) == [
            sum(low < value <= high for value in values) for low, high in zip(edges, edges[1:], strict=False)
        ]


def test_a_difference_below_zero_does_not_make_the_sum_smaller() -> None:
    accumulator = Accumulator([1])
    accumulator.add(-1e-7)
    assert accumulator.histogram() == Histogram((1,), (1, 0), 0.0)


def test_other_threads_may_ask_while_values_are_added() -> None:
    accumulator = Accumulator([0.5, 1])
    count = 100 * BLOCK
    seen: list[Histogram] = []

    def ask() -> None:
        while not seen or seen[-1].count < count:
            seen.append(accumulator.histogram())

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(count):
        accumulator.add(1.0)
    for thread in threads:
        thread.join()
    assert accumulator.histogram() == Histogram((0.5, 1), (0, count, 0), count)
    assert all(histogram.sum == histogram.count == histogram.counts[1] for histogram in seen)


def histograms(flow: Flow, step: int) -> StepHistograms:
    measured = flow.statistics().steps[step].histograms
    assert measured is not None
    return measured


async def test_a_known_load_is_measured() -> None:
    """One step alone, one in batches, one with items."""
    flow = forked(
        FlowStep(Each(handlers.add_one, handlers.nap)),
        FlowStep(Each(handlers.add_one), batch_size=4, batch_timeout=0.05),
        FlowStep(Yielding(handlers.count_up), concurrency=4),
    )
    records: list[TaskRecord] = []
    flow.subscribers.append(records.append)
    async with running(flow):
        tasks = [Job(number=number, count=3, seconds=NAP) for number in range(10)]
        await asyncio.gather(*[flow.process(task) for task in tasks])
        assert await items_of(flow.stream(Job(number=1, count=3, seconds=NAP))) == [0, 1, 2]
        assert isinstance(await outcome(flow.process(Job(number=None, count=3))), TypeError)
        await eventually(lambda: flow.statistics().in_flight == 0)
        first, second, third = (histograms(flow, step) for step in range(3))
        whole = flow.statistics().histograms
    assert whole is not None
    assert whole.total_time.count == 11  # the task that failed is in none of them
    assert (whole.first_item.count, whole.item_interval.count) == (1, 2)
    assert first.queue_wait.count == first.handle_time.count == 12
    assert first.handle_time.sum >= 11 * NAP
    assert sum(first.handle_time.counts[: SECONDS.index(NAP)]) <= 1  # the call that failed before it slept
    assert first.batch_size is first.batch_delay is None
    assert first.transfer_time is not None
    assert 1 <= first.transfer_time.count <= 12
    assert second.batch_size is not None and second.batch_delay is not None
    assert second.batch_size.sum == second.queue_wait.count == 11
    assert second.batch_size.count == second.handle_time.count == second.batch_delay.count >= 3
    assert second.batch_delay.sum >= 0.045  # the last task came alone
    assert second.batch_delay.sum <= second.queue_wait.sum
    assert third.queue_wait.count == third.handle_time.count == 11
    assert third.transfer_time is None
    check_records(records, tasks)


def check_records(records: list[TaskRecord], tasks: list[Any]) -> None:
    assert [record.outcome for record in records] == ["completed"] * 11 + ["failed"]
    assert {id(record.task) for record in records} >= {id(task) for task in tasks}
    assert len({record.number for record in records}) == 12
    for record in records:
        times = [record.started_at]
        for step in record.steps:
            times += [step.arrived_at, step.sent_at, step.answered_at]
            assert step.handle_time <= step.answered_at - step.sent_at
        assert sorted(times) == times
        assert times[-1] <= record.ended_at
    metrics = [step.metrics for step in records[0].steps]
    assert metrics == list(records[0].task.metrics.steps)


async def test_a_subscriber_that_raises_takes_nothing_from_the_task(caplog: pytest.LogCaptureFixture) -> None:
    flow = forked(Each(handlers.add_one))
    records: list[TaskRecord] = []
    flow.subscribers += [lambda record: 1 / 0, records.append]
    async with running(flow):
        assert (await flow.process(Job(number=1))).number == 2
    assert len(records) == 1
    assert "a subscriber to the tasks of flow flow has failed" in caplog.text
    caplog.clear()
    records.clear()
