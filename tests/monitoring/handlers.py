"""Tasks and handlers of the service that the monitoring watches; imports no web framework."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

from fastapi_aqueduct import BaseTask, BaseTaskHandler, Upload


class Photo(BaseTask):
    """A picture, and what happens to it: nothing unusual, ``fail``, ``die`` or ``hang``."""

    def __init__(self, image: Upload, fate: str = "") -> None:
        super().__init__()
        self.image = image
        self.fate = fate
        self.label = ""


class Shrink(BaseTaskHandler):
    """Takes a steady time for each picture: so long that clients on a busy machine are still too many for it."""

    def handle(self, *tasks: Photo) -> None:
        for _ in tasks:
            time.sleep(0.015)


class Label(BaseTaskHandler):
    """Takes a time for each batch, and some for each picture."""

    def handle(self, *tasks: Photo) -> None:
        time.sleep(0.004 + 0.001 * len(tasks))
        for task in tasks:
            if task.fate == "fail":
                task.fail(ValueError("no picture"))
            elif task.fate == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            elif task.fate == "hang":
                time.sleep(1.0)
            task.label = "cat"


class Question(BaseTask):
    """A question that is answered word by word."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text


class Answer(BaseTaskHandler):
    """Repeats the question, one word at a time."""

    def handle(self, task: Question) -> Iterator[str]:
        for word in task.text.split():
            time.sleep(0.005)
            yield word


class Album(BaseTask):
    """An album that is printed as a job, page by page; one without pages fails."""

    def __init__(self, pages: int) -> None:
        super().__init__()
        self.pages = pages


class Print(BaseTaskHandler):
    """Takes a time for each page."""

    def handle(self, task: Album) -> None:
        if not task.pages:
            raise ValueError("an album without pages")
        time.sleep(0.1 * task.pages)
