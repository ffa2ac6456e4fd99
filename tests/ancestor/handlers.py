"""What the programs of users in the tests run in workers; a worker imports no more than this."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from fastapi_aqueduct import BaseTask, BaseTaskHandler


class SumTask(BaseTask):
    def __init__(self, numbers: list[int], *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.numbers = numbers
        self.total: int | None = None


class SumHandler(BaseTaskHandler):
    """Adds up, with the help of something that only the worker has."""

    def __init__(self) -> None:
        self._start: int | None = None

    def on_start(self) -> None:
        self._start = 100

    def handle(self, *tasks: SumTask) -> None:
        for task in tasks:
            assert self._start is not None
            task.total = sum(task.numbers, self._start)


class PictureTask(BaseTask):
    def __init__(self, image: object) -> None:
        super().__init__()
        self.image = image
        self.has_cat: bool | None = None


PICTURE_TIME = 0.01
OVERHEAD = 0.02
BATCH = 20


class CatDetector(BaseTaskHandler):
    """Takes as long as a graphics card would: less for each picture of a batch than for one alone."""

    def handle(self, *tasks: PictureTask) -> None:
        saved = 1.0 if len(tasks) == 1 else 0.7
        time.sleep(OVERHEAD + PICTURE_TIME * len(tasks) * saved)
        for task in tasks:
            task.has_cat = True


class Brighten(BaseTaskHandler):
    def handle(self, *tasks: PictureTask) -> None:
        for task in tasks:
            assert isinstance(task.image, np.ndarray)
            task.image += 1


class Detect(BaseTaskHandler):
    def handle(self, *tasks: PictureTask) -> None:
        for task in tasks:
            assert isinstance(task.image, np.ndarray)
            task.has_cat = bool((task.image == 1).all())


class UploadTask(BaseTask):
    body: bytes

    def __init__(self) -> None:
        super().__init__()
        self.length: int | None = None


class Measure(BaseTaskHandler):
    def handle(self, *tasks: UploadTask) -> None:
        for task in tasks:
            task.length = len(task.body)


class Order(BaseTask):
    def __init__(self, number: int, path: Path) -> None:
        super().__init__()
        self.number = number
        self.path = path


class Slow(BaseTaskHandler):
    def handle(self, *tasks: Order) -> None:
        for task in tasks:
            time.sleep(0.02)
            with open(task.path, "a") as file:
                file.write(f"{task.number}\n")
