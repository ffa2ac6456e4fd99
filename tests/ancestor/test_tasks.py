"""Tasks that override ``update``, and workers that start before their flow does, as in the package ``aqueduct``."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from fastapi_aqueduct import BaseTask, Flow, NotRunningError
from fastapi_aqueduct.flow import FlowState
from fastapi_aqueduct.metrics import Collector, MetricsTypes
from fastapi_aqueduct.task import DEFAULT_PRIORITY, StopTask
from fastapi_aqueduct.testing import inline

from ..support import running
from .integrated import Handler, Keeping, Sum, Task

LARGE = 100_000


async def test_a_task_gets_its_results_from_its_own_update() -> None:
    with inline(flow := Flow(Sum())):
        async with running(flow):
            images: list[Any] = [b"\1\2", b"\1" * LARGE, np.ones(LARGE, np.uint8)]
            for image in images:
                task = Keeping(image)
                assert await flow.process(task) is task
                assert task.image is image
                assert (task.total, task.updates) == (3 if image is images[0] else LARGE, 1)
                assert task.metrics.steps
            task = Keeping(b"\1" * LARGE)
            task.share_value("image")
            await flow.process(task)
            assert task.image == b"\1" * LARGE
            del task


async def test_a_call_of_another_thread_updates_the_callers_task() -> None:
    with inline(flow := Flow(Sum())):
        async with running(flow):
            task = await asyncio.to_thread(flow.process_blocking, Keeping(b"\1\2"))
            assert (task.image, task.total, task.updates) == (b"\1\2", 3, 1)
            del task


def test_update_leaves_out_what_is_excluded() -> None:
    ours, theirs = Task(), Task()
    ours.result, theirs.result = "ours", "theirs"
    ours.__dict__["only_here"], theirs.__dict__["only_there"] = 1, 2
    task_id = ours.task_id
    ours.update(theirs, excluded_fields={"result"})
    assert vars(ours) == {"task_id": task_id, "result": "ours", "only_there": 2}
    ours.update(theirs)
    assert vars(ours) == {"task_id": task_id, "result": "theirs", "only_there": 2}
    assert theirs.task_id != task_id


async def test_update_moves_fields_in_shared_memory() -> None:
    with inline(flow := Flow(Handler())):
        async with running(flow):
            ours, theirs = Keeping(b"\1" * LARGE), Keeping(b"\2" * LARGE)
            for task in (ours, theirs):
                task.share_value("image")
            BaseTask.update(ours, theirs, {"image"})
            assert ours.image == b"\1" * LARGE
            BaseTask.update(ours, theirs)
            assert ours.image == b"\2" * LARGE
            del ours, theirs, task


def test_processes_that_are_initialized_before_the_flow_starts() -> None:
    flow = Flow(Handler())
    with inline(flow):
        with pytest.raises(NotRunningError, match="flow flow is stopped"):
            flow.start_inited()
        flow.init_processes(timeout=60)
        assert flow.state is FlowState.STEPS_INITIALIZED
        assert flow.are_steps_initialized and not flow.is_running

        async def serve() -> None:
            with pytest.raises(NotRunningError, match=r"flow\.start_inited\(\) has it accept tasks"):
                await flow.process(Task())
            flow.start_inited()
            assert flow.is_running and not flow.are_steps_initialized
            assert (await flow.process(Task())).result == "done"
            await flow.stop()

        asyncio.run(serve())


@pytest.mark.parametrize("starts", ["start", "start_async", "stop"])
def test_what_else_can_follow_the_initialization(starts: str) -> None:
    flow = Flow(Handler())
    with inline(flow):
        flow.init_processes()
        if starts == "start":
            flow.start()
        elif starts == "start_async":
            asyncio.run(flow.start_async())
        assert flow.is_running is (starts != "stop")
        asyncio.run(flow.stop())
        assert flow.state is FlowState.STOPPED


def test_whether_task_timers_are_collected() -> None:
    assert Flow(Handler()).need_collect_task_timers
    assert not Flow(Handler(), metrics_enabled=False).need_collect_task_timers
    for kinds, needed in (([MetricsTypes.TASK_TIMERS], True), ([MetricsTypes.QUEUE_SIZE], False)):
        assert Flow(Handler(), metrics_collector=Collector(kinds)).need_collect_task_timers is needed


def test_small_names() -> None:
    assert Task().priority == DEFAULT_PRIORITY == 0
    assert isinstance(StopTask(), BaseTask)
