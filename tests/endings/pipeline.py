"""What the application does in its worker processes; imports no web framework."""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from fastapi_aqueduct import BaseTask, BaseTaskHandler, FormField, Upload

from ..handlers import Gate


class Bad(Exception):
    """An input that the handler refuses."""


class Mapped(Exception):
    """An input that the handler refuses, for which the application has an exception handler."""


class Stranger(Exception):
    """Travels to no other process: it cannot be rebuilt there."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


class Fragile:
    """Travels to a worker and not back."""

    def __reduce__(self) -> Any:
        return _rebuild, (os.getpid(),)


def _rebuild(pid: int) -> Fragile:
    if pid != os.getpid():
        raise Bad("made in another process")
    return Fragile()


class Picture(BaseTask):
    """A body with a fate.

    Args:
        image: The body.
        fate: What the handler does.
        gate: Directory of the gate at which it waits first, if it is to wait.
        name: Name of that gate.
        number: A field of the form.
    """

    def __init__(
        self,
        image: Upload,
        fate: str = "answer",
        gate: Path | None = None,
        name: str = "gate",
        number: Annotated[int, FormField()] = 0,
    ) -> None:
        super().__init__()
        self.image = image
        self.fate = fate
        self.gate = None if gate is None else Gate(gate, name)
        self.number = number
        self.size = 0
        self.array: Any = None
        self.extra: Any = None


class Suffer(BaseTaskHandler):
    """Does to a task what its fate says; without the collector, which would free what a cycle holds."""

    def on_start(self) -> None:
        gc.disable()

    def handle(self, *tasks: Picture) -> None:
        for task in tasks:
            if task.gate is not None:
                task.gate.enter()
            getattr(self, f"_{task.fate}", _no_more)(task)

    def _answer(self, task: Picture) -> None:
        task.size = len(task.image)
        task.array = np.frombuffer(task.image, np.uint8) + 1

    def _large(self, task: Picture) -> None:
        task.array = np.zeros(4 << 20, np.uint8)

    def _raise(self, task: Picture) -> None:
        raise Bad("refused")

    def _mapped(self, task: Picture) -> None:
        raise Mapped("refused")

    def _stranger(self, task: Picture) -> None:
        raise Stranger(1, 2)

    def _chain(self, task: Picture) -> None:
        try:
            raise Bad("first")
        except Bad as exc:
            raise Mapped("second") from exc

    def _exit(self, task: Picture) -> None:
        raise SystemExit(1)

    def _fail(self, task: Picture) -> None:
        try:
            raise Bad("refused")
        except Bad as exc:
            task.fail(exc)

    def _untransportable(self, task: Picture) -> None:
        task.extra = lambda: None

    def _fragile(self, task: Picture) -> None:
        task.extra = Fragile()

    def _death(self, task: Picture) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def _no_more(task: Picture) -> None:
    task.size = len(task.image)
