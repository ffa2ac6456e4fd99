"""What the tests of the recorder run in workers."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np  # noqa: F401 - not with the first task, whose time may be limited

from fastapi_aqueduct import BaseTask, BaseTaskHandler

from ..handlers import Gate


class Unreadable(Exception):
    """An error of a user."""


@dataclass
class Scan(BaseTask):
    """A task with large fields.

    Attributes:
        pixels: An array.
        fault: What goes wrong in the step `Read`.
        gate: Holds that step.
        customer: Private.
        words: The result of the step `Prepare`.
        text: The result of the step `Read`.
    """

    pixels: Any
    fault: str = ""
    gate: Gate | None = None
    customer: str = "Ann"
    words: list[str] = field(default_factory=list)
    text: str = ""


class Prepare(BaseTaskHandler):
    """The step before the one that fails."""

    def handle(self, *tasks: Scan) -> None:
        for task in tasks:
            task.words.append("prepared")
            task.pixels = task.pixels + 1


class Hold(BaseTaskHandler):
    """Waits at the gate of a task."""

    def handle(self, *tasks: Scan) -> None:
        for task in tasks:
            if task.gate is not None:
                task.gate.enter()


class Read(BaseTaskHandler):
    """Changes a task, and fails then."""

    def handle(self, *tasks: Scan) -> None:
        for task in tasks:
            task.words.append("changed")
            task.pixels = None
            if task.gate is not None:
                task.gate.enter()
            fail(task)
            task.text = "read"


class ReadAlone(BaseTaskHandler):
    """Has memory for one task only."""

    def handle(self, *tasks: Scan) -> None:
        for task in tasks:
            task.words.append("changed")
        if len(tasks) > 1 or tasks[0].fault == "memory":
            raise MemoryError(f"no memory for {len(tasks)} tasks")


class ReadSlowly(BaseTaskHandler):
    """The same in a coroutine."""

    async def handle(self, task: Scan) -> None:
        import asyncio

        task.words.append("changed")
        await asyncio.sleep(60)


def fail(task: Scan) -> None:
    """Fail as a task says."""
    if task.fault == "raise":
        raise Unreadable("no text\nin it")
    if task.fault == "fail":
        task.fail(Unreadable("not this one"))
    if task.fault == "exit":
        os._exit(3)
    if task.fault == "hang":
        time.sleep(60)
