"""The questions of the manual of the package ``aqueduct``, and those that it leaves without an answer.

That of brokers is one of speed: ``test_c14`` of `test_defects` shows that big objects are not copied on their way.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from logging.handlers import RotatingFileHandler
from pathlib import Path

import numpy as np

from fastapi_aqueduct import Flow, FlowStep, WorkerOptions
from fastapi_aqueduct.logger import log as aqueduct_logger
from fastapi_aqueduct.metrics.export import DummyExporter
from fastapi_aqueduct.testing import inline

from ..support import DEADLINE, eventually, forked, pids, running
from .handlers import BATCH, Brighten, Detect, PictureTask
from .integrated import Handler, OnDevice, Task, Versioned


async def test_can_i_save_money_on_hardware() -> None:
    """By batches: one call of the model for many requests."""
    with inline(flow := Flow(FlowStep(Handler(), batch_size=BATCH, batch_timeout=DEADLINE))):
        async with running(flow):
            tasks = await asyncio.gather(*[flow.process(Task(), DEADLINE) for _ in range(BATCH)])
            assert {step.batch_size for task in tasks for step in task.metrics.steps} == {BATCH}
            del tasks


async def test_what_is_the_difference_from_a_pool_of_processes() -> None:
    """Each of the features that the manual lists, but the detection of dead processes, which is below."""
    exporter = DummyExporter()
    with inline(flow := Flow(Brighten(), Detect(), metrics_exporter=exporter)):
        async with running(flow):
            pictures = [PictureTask(np.zeros((64, 64, 3))) for _ in range(3)]
            for picture in pictures:
                picture.share_value("image")
            await asyncio.gather(*[flow.process(picture) for picture in pictures])
            # The second step has what the first has written, and the caller, too, at the same place.
            assert all(picture.has_cat for picture in pictures)
            assert all(isinstance(picture.image, np.ndarray) and picture.image.min() == 1 for picture in pictures)
            del pictures, picture
    assert exporter.target.tasks_stats.complete == 3
    assert {name for name, _ in exporter.target.handle_times.items} == {"step1_Brighten", "step2_Detect", "total"}


async def test_does_it_make_sense_to_have_several_processes_of_a_step_with_a_model_on_a_gpu() -> None:
    """With several devices: each process has its own."""
    step = FlowStep(OnDevice(), nprocs=2, worker=WorkerOptions(devices=["0", "1"]))
    async with running(forked(step)) as flow:
        devices: set[str | None] = set()

        async def ask() -> None:
            devices.add((await flow.process(Task(), DEADLINE)).result)

        while len(devices) < 2:
            await asyncio.gather(ask(), ask())
        assert devices == {"0", "1"}


async def test_why_use_the_logger_of_the_package(tmp_path: Path) -> None:
    """To have in a file of one's own what happens to processes."""
    handler = RotatingFileHandler(tmp_path / "my_log.log", maxBytes=2000, backupCount=10)
    level = aqueduct_logger.level
    aqueduct_logger.addHandler(handler)
    aqueduct_logger.setLevel(logging.INFO)
    try:
        with inline(flow := Flow(Handler())):
            async with running(flow):
                pass
    finally:
        aqueduct_logger.setLevel(level)
        aqueduct_logger.removeHandler(handler)
        handler.close()
    assert "is running" in (tmp_path / "my_log.log").read_text()


async def test_what_happens_if_one_of_the_subprocesses_is_dead() -> None:
    async with running(forked(FlowStep(Handler(), nprocs=2))) as flow:
        dead = pids(flow)[0]
        os.kill(dead, signal.SIGKILL)
        await eventually(lambda: dead not in pids(flow))
        assert (await flow.process(Task())).result == "done"
        await eventually(lambda: len(pids(flow)) == 2)


async def test_can_i_replace_the_model_while_the_service_is_working_without_stopping_it() -> None:
    with inline(flow := Flow(Versioned("first"))):
        async with running(flow):
            results = []
            is_replaced = asyncio.Event()

            async def serve() -> None:
                while not is_replaced.is_set():
                    results.append((await flow.process(Task())).result)

            serving = asyncio.create_task(serve())
            await eventually(lambda: results)
            await flow.steps["step1_Versioned"].replace(Versioned("second"))
            is_replaced.set()
            await serving
            assert (await flow.process(Task())).result == "second"
            assert results[0] == "first"
            assert set(results) <= {"first", "second"}
