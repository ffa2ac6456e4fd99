"""Handlers that tell what their workers have got of the machine."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

from fastapi_aqueduct import BaseTask, BaseTaskHandler, WorkerInfo, in_worker, worker_info
from fastapi_aqueduct.worker_options import WorkerOptions

AT_IMPORT = dict(os.environ)
"""The environment in which this module was imported."""


class Ask(BaseTask):
    """Asks a worker what it is.

    Args:
        signum: A signal with which the worker ends instead; 0 for none.
    """

    info: WorkerInfo
    started_as: WorkerInfo
    environ: dict[str, str]

    def __init__(self, signum: int = 0) -> None:
        self.signum = signum


class Tell(BaseTaskHandler):
    """Tells what its worker is."""

    def on_start(self) -> None:
        self.started_as = worker_info()

    def handle(self, *tasks: Ask) -> None:
        for task in tasks:
            if task.signum:
                os.kill(os.getpid(), signal.Signals(task.signum))
            task.info = worker_info()
            task.started_as = self.started_as
            task.environ = AT_IMPORT


class TellLater(BaseTaskHandler):
    """Tells it from another thread, as coroutines do it."""

    async def handle(self, *tasks: Any) -> None:
        for task in tasks:
            task.info = await asyncio.to_thread(worker_info)


def load() -> WorkerInfo:
    return worker_info()


@in_worker(load=load, name="ask", worker=WorkerOptions(devices=["xpu:3"], threads=7))
def ask(loaded: WorkerInfo) -> tuple[WorkerInfo, str | None]:
    return loaded, AT_IMPORT.get("ZE_AFFINITY_MASK")
