"""What is measured of workers is what they do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import pytest

from fastapi_aqueduct import BaseTask, FlowStep
from fastapi_aqueduct.cli.tune.bench import Bench
from fastapi_aqueduct.cli.tune.calls import Call, CallFailed
from fastapi_aqueduct.cli.tune.goal import Load
from fastapi_aqueduct.cli.tune.isolation import isolated, largest_size, size_of, size_option, with_size
from fastapi_aqueduct.cli.tune.load_run import LoadRun
from fastapi_aqueduct.cli.tune.machine import Usage, free_memory
from fastapi_aqueduct.cli.tune.model import StepSettings
from fastapi_aqueduct.cli.tune.prepared import PreparedTasks

from ..support import DEADLINE
from . import flows
from .flows import EACH, FIXED, Ask, Device, Spell, Word

PATIENCE = DEADLINE
DEAR = 0.01
"""Seconds in which a sample makes a task."""

OPTIONS = flows.flow._configuration.options


def words(count: int) -> Sequence[BaseTask]:
    return [Word("word") for _ in range(count)]


def dear_words(count: int) -> Sequence[BaseTask]:
    end = time.thread_time() + DEAR
    while time.thread_time() < end:
        pass
    return words(count)


def seen_words(count: int) -> Sequence[BaseTask]:
    return [Word("cat", device=True) for _ in range(count)]


@pytest.fixture
async def device() -> AsyncIterator[Bench]:
    """A worker with the device."""
    flow = isolated(OPTIONS, "device", FlowStep(Device(), batch_size=2), StepSettings(1, 256, 1))
    async with Bench.running(flow) as bench:
        yield bench


async def test_a_call_takes_what_the_handler_needs_for_so_many_tasks_or_fails(device: Bench) -> None:
    for size in (1, 8):
        point = await device.measure_calls(words, size, 1, seconds=0.3, patience=PATIENCE)
        assert point.size == size
        assert point.seconds >= 0.95 * (FIXED + EACH * size)  # without the time for which it waited for a core
        assert 0 < point.cpu < point.seconds
        assert point.calls >= 1
        assert point.memory > 2**20
    with pytest.raises(CallFailed, match="ValueError: the device has 8 places"):  # it is not tried again task by task
        await device.measure_calls(words, 9, 1, seconds=0.3, patience=PATIENCE)
    served = await device.measure_calls(words, 1, 1, seconds=0.1, patience=PATIENCE)  # it serves on
    assert served.size == 1


async def test_a_load_has_the_rate_and_the_times_of_its_answers(device: Bench) -> None:
    outcome = await device.load(words, Load(callers=4), seconds=0.5)
    assert outcome.failed == 0
    assert outcome.rate <= 4 / (FIXED + EACH)  # four callers at most, each answered by a call
    assert outcome.times[0] >= FIXED + EACH
    assert outcome.percentile(0) == outcome.times[0] <= outcome.mean <= outcome.percentile(100) == outcome.times[-1]
    assert 0 < outcome.speed <= 1
    assert outcome.dispatch > 0
    outcome = await device.load(dear_words, Load(callers=4), seconds=0.3)
    assert outcome.dispatch < DEAR / 2  # the time in which a task is made is that of the sample
    outcome = await device.load(words, Load(rate=50), seconds=0.1, longest=30, least=20)
    assert len(outcome.times) >= 15  # the first fifth does not count
    assert outcome.times[0] >= FIXED + EACH


class Cohorts:
    """Answers all tasks that wait together, one cohort after the other.

    Args:
        seconds: How long each cohort takes.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end: asyncio.Future[None] | None = None
        self.pids: list[int] = []

    def memory(self) -> int:
        return 0

    async def process(self, task: BaseTask) -> int:
        loop = asyncio.get_running_loop()
        if self._end is None or self._end.done():
            self._end = loop.create_future()
            loop.call_later(self._seconds, self._end.set_result, None)
        await self._end
        return 0


async def test_bursts_of_answers_do_not_disturb_the_rate() -> None:
    # Seven cohorts: a fifth of the answers, which does not count, ends within a cohort.
    outcome = await LoadRun(Cohorts(0.05), words, Load(callers=8)).measure(seconds=0.01, longest=PATIENCE, least=56)
    assert outcome.rate == pytest.approx(8 / outcome.mean)
    assert outcome.rate <= 1.01 * 8 / 0.05


async def test_the_tasks_of_a_call_have_one_key_where_batches_have() -> None:
    tasks = PreparedTasks()
    for text in ("one", "two"):
        tasks.add(Word(text))
    step = FlowStep(Device(), batch_size=2, batch_key="text", coalesce_key="text")
    async with Bench.running(isolated(OPTIONS, "device", step, StepSettings(1, 8, 1))) as bench:
        point = await bench.measure_calls(tasks.take_alike, 4, 1, seconds=0.2, patience=PATIENCE)
        assert point.seconds >= 0.95 * (FIXED + 4 * EACH)  # each of the four is one of the batch
        with pytest.raises(CallFailed, match=r"4 tasks at once came to calls of \[2\]"):
            await bench.measure_calls(tasks.take, 4, 1, seconds=0.2, patience=PATIENCE)


async def test_a_load_of_which_nothing_is_answered_says_why() -> None:
    flow = isolated(OPTIONS, "fail", FlowStep(flows.Fail()), StepSettings(1, 1, 1))
    async with Bench.running(flow) as bench:
        with pytest.raises(CallFailed, match="ValueError: not a word"):
            await bench.load(words, Load(callers=1), seconds=0.1)


@pytest.mark.parametrize("step", [FlowStep(Ask(), concurrency=8), FlowStep(Spell(), concurrency=4)])
async def test_calls_side_by_side_take_as_long_as_one_alone(step: FlowStep) -> None:
    flow = isolated(OPTIONS, "beside", step, StepSettings(1, size_of(step), 1))
    async with Bench.running(flow, streams=True) as bench:
        items = await bench.process(Word("cat", device=True))
        assert items == (3 if isinstance(step.handler, Spell) else 0)
        point = await bench.measure_beside(seen_words, 4, seconds=0.4)
    assert point.size == 4
    assert point.cpu <= point.seconds * 1.01
    assert point.memory > 2**20


@pytest.mark.parametrize(
    ("handle_time", "around", "cpu", "waited", "threads", "seconds"),
    [
        (0.100, 0.001, 0.101, 0.0, 1, 0.101),  # computes; decodes for 1 ms
        (0.500, 0.001, 0.101, 0.4, 1, 0.101),  # the same on a busy machine
        (0.500, 0.100, 0.101, 0.4, 1, 0.101),  # where the answer is late, too
        (0.100, 0.001, 0.400, 0.0, 4, 0.101),  # with four threads
        (0.100, 0.001, 0.002, 0.0, 1, 0.100),  # waits for a device
        (0.100, 0.020, 0.002, 0.015, 1, 0.100),  # the worker got its core late, before the handler
        (0.130, 0.001, 0.002, 0.030, 1, 0.101),  # or in it
        (0.010, 0.020, 0.0004, 0.011, 1, 0.010),  # the same with a short call
        (0.100, 0.001, None, 0.0, 1, 0.100),  # a system that does not tell
    ],
)
def test_waits_for_a_core_are_no_part_of_a_call(
    handle_time: float, around: float, cpu: float | None, waited: float, threads: int, seconds: float
) -> None:
    assert Call(handle_time, around, cpu, waited).seconds(threads) == pytest.approx(seconds, abs=0.002)


def test_the_size_of_a_step_is_what_its_form_allows() -> None:
    device, ask, spell = FlowStep(Device(), batch_size=2), FlowStep(Ask()), FlowStep(Spell())
    assert [size_option(step) for step in (device, ask, spell)] == ["batch_size", "concurrency", "concurrency"]
    assert [size_of(step) for step in (device, ask, spell)] == [2, 100, 1]
    assert [largest_size(step) for step in (device, ask, spell)] == [256, 100, 1]
    assert with_size(device, 8).batch_size == 8
    assert with_size(ask, 8).concurrency == 8


def test_processor_time_is_told_from_that_of_others() -> None:
    usage = Usage([])
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    use = usage.read()
    assert 0.2 <= use.own <= usage.seconds * 1.01
    assert use.workers == 0
    assert 0 < use.speed <= 1
    assert (free_memory() or 0) > 0
