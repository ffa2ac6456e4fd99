"""What the tests of shared pipelines run in worker processes. Imports little, since each worker imports it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastapi_aqueduct import BaseTaskHandler

from ..handlers import note, notes

log = logging.getLogger("tests.shared.worker")

REQUEST: ContextVar[str] = ContextVar("request")


class BadModel(Exception):
    """Of the user: the pipeline process does not know it."""

    def __init__(self, path: str) -> None:
        super().__init__(f"no model at {path}")


@dataclass
class Times(BaseTaskHandler):
    """Answers with a multiple of an array, and the process.

    Attributes:
        factor: The multiple.
        fault: What happens in `on_start`.
        hold: It does not start as long as this file is there.
    """

    factor: int
    fault: str = ""
    hold: Path | None = None

    def on_start(self) -> None:
        if self.fault:
            raise BadModel(self.fault)
        while self.hold is not None and self.hold.exists():
            pass

    def handle(self, *tasks: Any) -> None:
        for task in tasks:
            if task.number == 13:
                raise BadModel("13")
            task.result = task.payload * self.factor
            task.factor = self.factor
            task.pid = os.getpid()


class Logging(BaseTaskHandler):
    """Logs at the level that a task wants."""

    def on_start(self) -> None:
        log.error("starts")

    def handle(self, *tasks: Any) -> None:
        for task in tasks:
            if task.fault:
                try:
                    raise BadModel(task.fault)
                except BadModel:
                    log.exception("at %s", task.fault)
            else:
                log.log(task.level, "has %d", task.number)


class Mix(BaseTaskHandler):
    """Does with the image of a task what the task asks for; yields a copy of each large field on the way."""

    def handle(self, *tasks: Any) -> Iterator[Any]:
        """Work on one task."""
        (task,) = tasks
        task.total = int(task.image.sum())
        for number in range(task.items):
            yield np.full(task.item_size, number, np.uint8) if number % 2 else task.image[number:]
        if task.action == "replace":
            task.image = task.image + 1
        elif task.action == "drop":
            task.image = None
        elif task.action == "fail":
            raise ValueError("as asked")
        elif task.action == "slice":
            task.image = task.image[: len(task.image) // 2]


@dataclass
class Shot(BaseTaskHandler):
    """Is killed in its first starts.

    Attributes:
        path: Where it notes its starts.
        times: How often it is killed.
        signal: With what.
    """

    path: Path
    times: int
    signal: int

    def on_start(self) -> None:
        note(self.path, "start")
        if len(notes(self.path)) <= self.times:
            os.kill(os.getpid(), self.signal)

    def handle(self, *tasks: Any) -> None:
        pass
