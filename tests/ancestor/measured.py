"""What the tests of metrics run in workers; a worker imports no more than this."""

from __future__ import annotations

import time

from fastapi_aqueduct import BaseTask, BaseTaskHandler


class Picture(BaseTask):
    def __init__(self, payload: bytes = b"", fate: str = "") -> None:
        super().__init__()
        self.payload = payload
        self.fate = fate


class Shrink(BaseTaskHandler):
    def handle(self, *tasks: Picture) -> None:
        for task in tasks:
            if task.fate == "sleep":
                time.sleep(0.2)
            elif task.fate == "raise":
                raise ValueError("no picture")


class Detect(BaseTaskHandler):
    def handle(self, *tasks: Picture) -> None:
        time.sleep(0.01)
