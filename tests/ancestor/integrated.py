"""What the tests of integrations and of tasks run in workers; a worker imports no more than this."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from fastapi_aqueduct import BaseTask, BaseTaskHandler


class Task(BaseTask):
    def __init__(self) -> None:
        super().__init__()
        self.result: str | None = None


class Handler(BaseTaskHandler):
    def handle(self, *tasks: Task) -> None:
        for task in tasks:
            task.result = "done"


class Failing(BaseTaskHandler):
    def on_start(self) -> None:
        raise FileNotFoundError("no model here")

    def handle(self, *tasks: Task) -> None: ...


class Endless(BaseTaskHandler):
    def handle(self, task: Task) -> Iterator[int]:
        while True:
            time.sleep(0.001)
            yield 1


class Keeping(BaseTask):
    """Keeps its own image, whatever the handlers have made of it."""

    def __init__(self, image: Any) -> None:
        super().__init__()
        self.image = image
        self.total = 0
        self.updates = 0

    def update(self, source_task: BaseTask, excluded_fields: Iterable[str] | None = None) -> None:
        super().update(source_task, {"image", "updates", *(excluded_fields or ())})
        self.updates += 1


class Sum(BaseTaskHandler):
    def handle(self, *tasks: Keeping) -> None:
        for task in tasks:
            assert task.updates == 0
            task.total = int(np.frombuffer(task.image, np.uint8).sum())
            task.image = None


class Bad(BaseTaskHandler):
    def handle(self, *tasks: Task) -> None:
        for task in tasks:
            if task.result == "bad":
                raise ValueError("a bad input")
            task.result = "done"


class OnDevice(BaseTaskHandler):
    def handle(self, *tasks: Task) -> None:
        time.sleep(0.01)
        for task in tasks:
            task.result = os.environ["CUDA_VISIBLE_DEVICES"]


class Versioned(BaseTaskHandler):
    def __init__(self, name: str) -> None:
        self._name = name

    def handle(self, *tasks: Task) -> None:
        for task in tasks:
            task.result = self._name
