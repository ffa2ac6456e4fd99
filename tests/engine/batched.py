"""Handlers of batches, with keys and costs of tasks."""

from __future__ import annotations

import os
import signal
from contextvars import ContextVar
from typing import Any

from fastapi_aqueduct import BaseTaskHandler

from .. import handlers
from ..handlers import Job

LENGTH: ContextVar[int] = ContextVar("length", default=1)


def bucket_of(task: Job) -> int:
    return int(task.number) // 10


def length_of(task: Job) -> int:
    return LENGTH.get()


def halve(task: Any) -> None:
    task.half = task.number // 2


def key_of_zero(task: Job) -> float:
    return 1 / float(task.number)


def tell_batch_at_gate(*tasks: Any) -> None:
    for task in tasks:
        if "gate" in task.__dict__:
            task.gate.enter()
    handlers.tell_batch(*tasks)


class Dying(BaseTaskHandler):
    """Dies with task 1 in hand."""

    def handle(self, *tasks: Any) -> None:
        if any(task.number == 1 for task in tasks):
            os.kill(os.getpid(), signal.SIGKILL)
        handlers.tell_batch(*tasks)
