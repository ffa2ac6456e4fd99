"""Programs as users of the package ``aqueduct`` write them; only the name of the package in the imports differs."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from fastapi_aqueduct import BaseTask, BaseTaskHandler, Flow, FlowStep
from fastapi_aqueduct.exceptions import AqueductError, FlowError, MPStartMethodValueError, NotRunningError
from fastapi_aqueduct.flow import Flow as FlowOfModule
from fastapi_aqueduct.flow import FlowState
from fastapi_aqueduct.handler import BaseTaskHandler as HandlerOfModule
from fastapi_aqueduct.logger import LOGGER_NAME, log, replace_logger
from fastapi_aqueduct.task import BaseTask as TaskOfModule

from ..support import DEADLINE, eventually, pids, run_script, running
from .handlers import (
    BATCH,
    OVERHEAD,
    PICTURE_TIME,
    Brighten,
    CatDetector,
    Detect,
    Measure,
    Order,
    PictureTask,
    Slow,
    SumHandler,
    SumTask,
    UploadTask,
)


def test_the_names_of_the_modules() -> None:
    assert FlowOfModule is Flow
    assert import_module("fastapi_aqueduct.flow").FlowStep is FlowStep
    assert HandlerOfModule is BaseTaskHandler
    assert TaskOfModule is BaseTask
    assert FlowState.RUNNING.value == "running"
    assert {state.value for state in FlowState} >= {"running", "starting", "stopping", "stopped"}
    assert issubclass(FlowError, AqueductError)
    assert issubclass(NotRunningError, FlowError)
    assert issubclass(MPStartMethodValueError, (AqueductError, ValueError))
    assert log.name == LOGGER_NAME


def test_the_sum_service() -> None:
    flow = Flow(FlowStep(SumHandler()))
    flow.start()

    async def serve() -> int | None:
        task = SumTask([1, 2, 3])
        assert await flow.process(task, timeout_sec=DEADLINE)
        await flow.stop()
        return task.total

    assert asyncio.run(serve()) == 106


def test_the_sum_service_as_a_script(tmp_path: Path) -> None:
    source = """
        import asyncio
        from fastapi_aqueduct import BaseTask, BaseTaskHandler, Flow, FlowStep


        class Task(BaseTask):
            def __init__(self, numbers):
                super().__init__()
                self.numbers = numbers
                self.total = None


        class Sum(BaseTaskHandler):
            def handle(self, *tasks):
                for task in tasks:
                    task.total = sum(task.numbers)


        async def main():
            flow = Flow(FlowStep(Sum()))
            flow.start()
            task = Task([4, 5])
            await flow.process(task)
            print(task.total)
            await flow.stop()


        if __name__ == "__main__":
            asyncio.run(main())
    """
    assert run_script(tmp_path, source) == "9\n"


async def test_a_batch_takes_less_time_than_its_tasks_one_by_one() -> None:
    one_by_one = BATCH * (OVERHEAD + PICTURE_TIME)
    in_a_batch = OVERHEAD + BATCH * PICTURE_TIME * 0.7
    async with running(Flow(FlowStep(CatDetector(), batch_size=BATCH, batch_timeout=DEADLINE))) as flow:
        tasks = [PictureTask(np.zeros((8, 8, 3))) for _ in range(BATCH)]
        assert not any(task.has_cat for task in tasks)
        started = time.monotonic()
        await asyncio.gather(*[flow.process(task, DEADLINE) for task in tasks])
        elapsed = time.monotonic() - started
        assert all(task.has_cat for task in tasks)
        assert in_a_batch <= elapsed < one_by_one


async def test_a_batch_that_does_not_fill_waits_its_time_and_no_longer() -> None:
    async with running(Flow(FlowStep(CatDetector(), batch_size=2, batch_timeout=0.1))) as flow:
        started = time.monotonic()
        await flow.process(PictureTask(None))
        assert 0.1 + OVERHEAD + PICTURE_TIME <= time.monotonic() - started < DEADLINE


async def test_without_a_batch_timeout_a_lone_task_waits_for_nobody() -> None:
    async with running(Flow(FlowStep(CatDetector(), batch_size=BATCH))) as flow:
        task = await flow.process(PictureTask(None))
        assert task.metrics.steps[0].batch_size == 1


async def test_a_picture_in_shared_memory() -> None:
    async with running(Flow(FlowStep(Brighten()), FlowStep(Detect()))) as flow:
        task = PictureTask(np.zeros((64, 64, 3)))
        task.share_value("image")
        await flow.process(task)
        assert task.has_cat
        assert isinstance(task.image, np.ndarray)
        assert task.image.sum() == 64 * 64 * 3
        del task


async def test_an_upload_in_shared_memory() -> None:
    class Content:
        """A request's content as aiohttp has it."""

        def __init__(self) -> None:
            self._pieces = [b"a" * 70_000, b"b" * 30_000]

        async def readany(self) -> bytes:
            return self._pieces.pop(0) if self._pieces else b""

    async def stream() -> AsyncIterator[bytes]:
        yield b"c" * 100_000

    async with running(Flow(Measure())) as flow:
        for content in (Content(), stream()):
            task = UploadTask()
            await task.share_value_with_data("body", content, 100_000)
            await flow.process(task)
            assert task.length == 100_000
            del task


async def test_urgent_tasks_overtake_the_others(tmp_path: Path) -> None:
    path = tmp_path / "order"
    async with running(Flow(FlowStep(Slow()), queue_priorities=2)) as flow:
        orders = [Order(number, path) for number in range(10)]
        for order in orders[7:]:
            order.set_priority(1)
        await asyncio.gather(*[flow.process(order, timeout_sec=DEADLINE) for order in orders])
    served = [int(line) for line in path.read_text().split()]
    assert served[:3] == [7, 8, 9]
    assert served[3:] == [0, 1, 2, 3, 4, 5, 6]


class Events(logging.Handler):
    """Collects records as Sentry's ``EventHandler`` does."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


async def test_errors_reach_a_handler_of_the_log() -> None:
    events = Events(logging.ERROR)
    log.addHandler(events)
    try:
        async with running(Flow(FlowStep(SumHandler()))) as flow:
            os.kill(pids(flow)[0], signal.SIGKILL)
            await eventually(lambda: events.records)
    finally:
        log.removeHandler(events)
    assert events.records[0].name == LOGGER_NAME
    assert "SumHandler" in events.records[0].getMessage()


@pytest.fixture
def restored_log() -> Iterator[None]:
    before = {**vars(log), "handlers": list(log.handlers)}
    yield
    vars(log).update(before)
    log.setLevel(before["level"])


async def test_the_logger_can_be_replaced(restored_log: None) -> None:
    logger = logging.getLogger("mine")
    events = Events(logging.INFO)
    logger.addHandler(events)
    logger.setLevel(logging.INFO)
    log.setLevel(logging.ERROR)
    assert not log.isEnabledFor(logging.INFO)
    replace_logger(logger)
    try:
        async with running(Flow(FlowStep(SumHandler()))):
            pass
    finally:
        logger.removeHandler(events)
    assert any("is running" in record.getMessage() for record in events.records)
