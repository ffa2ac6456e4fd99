"""Tasks and handlers of the application with the status page; imports no web framework."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from fastapi_aqueduct import BaseTask, BaseTaskHandler

from ..handlers import Gate


def directory() -> Path:
    """Return where the gates are, and what breaks a step."""
    return Path(os.environ["STATUS_DIRECTORY"])


@dataclass
class Picture(BaseTask):
    """A picture, and what happens to it: nothing, ``fail``, ``die``, or ``hold`` at the gate of that name."""

    text: str = "a cat"
    fate: str = ""
    gate: str = "gate"
    image: bytes = b""
    caption: str = field(default="", init=False)


class Decode(BaseTaskHandler):
    """Takes a steady time."""

    def handle(self, *tasks: Picture) -> None:
        for task in tasks:
            time.sleep(0.002)
            if task.fate == "hold":
                Gate(directory(), task.gate).enter()


class Faces(BaseTaskHandler):
    """Takes longer than its neighbours."""

    def handle(self, *tasks: Picture) -> None:
        time.sleep(0.004 * len(tasks))


@dataclass
class Caption(BaseTaskHandler):
    """Answers with the name of its model; or does what the task asks for."""

    model: str = "small"

    def on_start(self) -> None:
        if self.model == "missing":
            raise FileNotFoundError("no such model: missing.onnx")

    def handle(self, *tasks: Picture) -> None:
        time.sleep(0.004 + 0.001 * len(tasks))
        for task in tasks:
            if task.fate == "fail":
                task.fail(ValueError(task.text))
            elif task.fate == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            task.caption = f"{self.model}: {task.text}"


class Fragile(BaseTaskHandler):
    """Cannot start while there is a file, and finds its model ill while there is another."""

    def on_start(self) -> None:
        if (directory() / "broken").exists():
            raise RuntimeError("<b>the model file is damaged</b>")

    def check(self) -> None:
        if (directory() / "ill").exists():
            raise ValueError("<i>its answers are noise</i>")

    def handle(self, task: Picture) -> None:
        task.caption = task.text


class Nap(BaseTaskHandler):
    """Has little to do."""

    def handle(self, task: Picture) -> None:
        task.caption = "zzz"
