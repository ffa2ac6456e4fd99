"""What `inline` does beyond the contract: handlers are objects of the test, and no process is started."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from fastapi_aqueduct import (
    BaseTaskHandler,
    Flow,
    FlowState,
    FlowStep,
    NotRunningError,
    StartError,
    TaskTimeout,
    WorkerOptions,
)
from fastapi_aqueduct.testing import inline

from .. import handlers
from ..handlers import Each, Gate, Job, Noting, notes
from ..support import eventually, traces

REQUEST: ContextVar[str] = ContextVar("request")


class Model(BaseTaskHandler):
    """Does what its model does, which a test replaces."""

    def __init__(self) -> None:
        self.model: Any = None
        self.batches: list[int] = []

    def handle(self, *tasks: Any) -> None:
        self.batches.append(len(tasks))
        for task in tasks:
            task.label = self.model(task.number)


class Failing(BaseTaskHandler):
    """Does not start."""

    def on_start(self) -> None:
        raise FileNotFoundError("weights.bin")

    def handle(self, *tasks: Any) -> None:
        """Is never called."""


class Logging(BaseTaskHandler):
    """Logs, in its thread and in another one."""

    def on_start(self) -> None:
        logging.getLogger("tests.inline").warning("started", extra={"step": "mine"})

    async def handle(self, *tasks: Any) -> None:
        logging.getLogger("tests.inline").warning("here")
        await asyncio.to_thread(logging.getLogger("tests.inline").warning, "elsewhere")


class Finishing(BaseTaskHandler):
    """Finishes the tasks of a batch one after the other."""

    def handle(self, *tasks: Any) -> None:
        for count, live in enumerate(self.rounds(tasks)):
            live[0].number = count
            live[0].emit(count)
            live[0].finish()


async def test_a_handler_is_an_object_of_the_test() -> None:
    handler = Model()
    async with inline(Flow(FlowStep(handler, batch_size=8, batch_timeout=60.0))) as flow:
        handler.model = lambda number: f"number {number}"  # no worker process could have it
        tasks = await asyncio.gather(*[flow.process(Job(number=number)) for number in range(8)])
        assert [task.label for task in tasks] == [f"number {number}" for number in range(8)]
        assert handler.batches == [8]
    assert handler.model is None  # or it could not be pickled into workers any more


async def test_it_starts_no_process_and_one_worker_for_each_step(tmp_path: Path) -> None:
    path = tmp_path / "life"
    before = traces().processes
    async with inline(Flow(FlowStep(Noting(path), nprocs=3, max_tasks=1, handle_timeout=0.001, busy_poll=1.0))) as flow:
        for _ in range(3):
            await flow.process(Job())
        assert [len(step.workers) for step in flow.statistics().steps] == [1]
        assert traces().processes == before
    assert notes(path) == ["start", "handle", "handle", "handle", "stop"]
    assert flow.state is FlowState.STOPPED


async def test_without_time_limits_a_breakpoint_may_take_its_time(tmp_path: Path) -> None:
    for time_limits in (True, False):
        directory = tmp_path / str(time_limits)
        directory.mkdir()
        gate = Gate(directory)
        async with inline(Flow(Each(handlers.enter_gate)), time_limits=time_limits) as flow:
            call = asyncio.create_task(flow.process(Job(gate=gate), timeout_sec=0.02))
            await eventually(gate.is_entered)
            if time_limits:
                with pytest.raises(TaskTimeout):
                    await call
                gate.open()
            else:
                await asyncio.wait([call], timeout=0.1)
                gate.open()
                await call


async def test_a_stop_without_grace_does_not_wait_for_a_handler(tmp_path: Path) -> None:
    path, gate = tmp_path / "life", Gate(tmp_path)
    before = threading.active_count()
    with inline(Flow(Noting(path), Each(handlers.enter_gate))) as flow:
        await flow.start_async()
        call = asyncio.create_task(flow.process(Job(gate=gate), 60))
        await eventually(gate.is_entered)
        await flow.stop(graceful=False)
        with pytest.raises(NotRunningError):
            await call
        gate.open()
        await eventually(lambda: threading.active_count() <= before)
    assert notes(path) == ["start", "handle"]  # as after SIGKILL


async def test_a_start_that_fails_is_raised_as_with_processes() -> None:
    flow = Flow(Failing())
    with pytest.raises(StartError, match="on_start.*weights.bin") as caught:
        async with inline(flow):
            pass
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    assert flow.state is FlowState.STOPPED
    async with inline(Flow(Each(handlers.add_one))) as other:
        with pytest.raises(NotRunningError, match="is running"):
            inline(other).__enter__()


async def test_log_records_have_the_attributes_of_those_of_workers(caplog: pytest.LogCaptureFixture) -> None:
    handle = logging.Logger.handle
    step = FlowStep(Logging(), name="say", worker=WorkerOptions(devices=["7"]))
    async with inline(Flow(step, name="pages", context=[REQUEST])) as flow:
        REQUEST.set("r-1")
        task = await flow.process(Job())
        logging.getLogger("tests.inline").warning("in the test")
    attributes = ("message", "flow", "step", "worker", "device_id", "worker_version", "pid", "task_id", "request")
    values = [[record.__dict__.get(name, "-") for name in attributes] for record in caplog.records]
    assert values == [
        ["started", "pages", "mine", 0, "7", 1, os.getpid(), None, None],
        ["here", "pages", "say", 0, "7", 1, os.getpid(), task.task_id, "r-1"],
        ["elsewhere", "pages", "say", 0, "7", 1, os.getpid(), task.task_id, "r-1"],
        ["in the test", *"--------"],
    ]
    assert logging.Logger.handle is handle


def test_it_works_without_an_event_loop() -> None:
    with inline(Flow(Each(handlers.add_one))) as flow:
        flow.start()
        assert flow.process_blocking(Job(number=1)).number == 2
    assert flow.state is FlowState.STOPPED


async def test_a_handler_may_be_called_directly_beside_a_flow() -> None:
    async with inline(Flow(Each(handlers.add_one))):
        tasks = [Job(number=9) for _ in range(3)]
        Finishing().handle(*tasks)
        assert [task.number for task in tasks] == [0, 1, 2]
