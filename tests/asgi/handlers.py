"""Tasks of requests, and what works on them in worker processes; imports no web framework."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from fastapi_aqueduct import BaseTask, BaseTaskHandler, Upload

from ..handlers import Gate, act_in_round, note


class Picture(BaseTask):
    """A body and a number beside it."""

    def __init__(self, image: Upload, factor: Annotated[int, Ge(1)] = 1) -> None:
        super().__init__()
        self.image: Upload | None = image
        self.factor = factor
        self.total = 0
        self.kind = ""


class Add(BaseTaskHandler):
    """Adds up the bytes of a picture and releases it."""

    def handle(self, *tasks: Picture) -> None:
        for task in tasks:
            assert task.image is not None
            task.kind = f"{type(task.image).__name__} {task.image.readonly}"
            task.total = sum(task.image) * task.factor
            task.image = None


class Count(BaseTaskHandler):
    """Counts the bytes of a picture and releases it."""

    def handle(self, *tasks: Picture) -> None:
        for task in tasks:
            assert task.image is not None
            task.total = len(task.image)
            task.image = None


class Sum(BaseTask):
    """Two numbers."""

    def __init__(self, a: int, b: int = 10) -> None:
        super().__init__()
        self.a = a
        self.b = b
        self.result = 0


class Adder(BaseTaskHandler):
    """Adds two numbers."""

    def handle(self, *tasks: Sum) -> None:
        for task in tasks:
            task.result = task.a + task.b


WORK = 0.1
"""Seconds of a call of `Work`."""


class Work(BaseTaskHandler):
    """Takes its time."""

    def handle(self, *tasks: Sum) -> None:
        time.sleep(WORK * len(tasks))


class Held(BaseTask):
    """A task that is held at a gate.

    Args:
        gate: Directory of the gate.
        name: Its name.
    """

    def __init__(self, gate: Path, name: str = "gate") -> None:
        super().__init__()
        self.gate = Gate(gate, name)


class HeldPicture(BaseTask):
    """A picture that is held at a gate."""

    def __init__(self, image: Upload, gate: Path, name: str = "gate") -> None:
        super().__init__()
        self.image = image
        self.gate = Gate(gate, name)


class Hold(BaseTaskHandler):
    """Holds tasks at their gates."""

    def handle(self, *tasks: Held | HeldPicture) -> None:
        for task in tasks:
            task.gate.enter()


class Brood(Hold):
    """Holds tasks at their gates, and has a child that no SIGTERM ends."""

    def on_start(self) -> None:
        before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if not os.fork():
            while True:
                signal.pause()
        signal.signal(signal.SIGTERM, before)


class Spin(BaseTaskHandler):
    """Never finishes a task, and never sleeps."""

    def handle(self, *tasks: Held) -> None:
        for task in tasks:
            task.gate.open()
            task.gate.enter()
        while True:
            pass


class Ticks(BaseTask):
    """A task with items that is held at a gate before one of them.

    Args:
        gate: Directory of the gate, and of the notes on which generators were closed.
        name: Name of the gate.
        count: Number of the items; by default there is no end.
        at: Before which item it is held; by default before none.
        pace: Seconds between two items.
        size: Bytes of each item.
    """

    def __init__(
        self, gate: Path, name: str = "gate", count: int = 10**9, at: int = -1, pace: float = 0.005, size: int = 0
    ) -> None:
        super().__init__()
        self.gate = Gate(gate, name)
        self.closed = gate / f"{name}.closed"
        self.count = count
        self.at = at
        self.pace = pace
        self.size = size


class Tick(BaseTaskHandler):
    """Counts, in a line for each number. It does not block other generators of its worker."""

    def handle(self, task: Ticks) -> Iterator[str | None]:
        try:
            for number in range(task.count):
                while number == task.at and task.gate.is_held():
                    time.sleep(0.002)
                    yield None
                yield str(number).rjust(task.size) + "\n"
                time.sleep(task.pace)
        finally:
            note(task.closed, "closed")


class BadPicture(Exception):
    """A picture that is none."""


class Case(BaseTask):
    """A task with a fate."""

    def __init__(self, fate: str) -> None:
        super().__init__()
        self.fate = fate


class Suffer(BaseTaskHandler):
    """Does to a task what its fate says."""

    def handle(self, *tasks: Case) -> None:
        for task in tasks:
            if task.fate == "bad":
                raise BadPicture("there is no picture in it")
            if task.fate == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ZeroDivisionError("a secret of the worker")


class NoModel(BaseTaskHandler):
    """Cannot start."""

    def on_start(self) -> None:
        raise FileNotFoundError("no model here")

    def handle(self, *tasks: BaseTask) -> None: ...


class Speech(BaseTask):
    """A task whose handler speaks words.

    Args:
        directory: A directory of the test, for notes and the gate.
        count: Number of the words.
        act: What happens before one of them; see `act_in_round`.
        at: Which one.
    """

    def __init__(self, directory: Path, count: Annotated[int, Ge(0)] = 3, act: str = "", at: int = 0) -> None:
        super().__init__()
        self.path = directory / "notes"
        self.gate = Gate(directory)
        self.count = count
        self.act = act
        self.at = at
        self.total = 0


def speak(task: Speech) -> Iterator[str]:
    """Yield the words of a speech, for `Yielding`."""
    note(task.path, "called")
    for number in range(task.count):
        act_in_round(task, number)
        yield f"word {number}"
    act_in_round(task, task.count)


class Recital(BaseTask):
    """A text that is recited, and perhaps not to its end."""

    def __init__(self, text: Upload, act: str = "") -> None:
        super().__init__()
        self.text = text
        self.act = act
        self.total = self.count = 0


def recite(task: Recital) -> Iterator[bytes | memoryview]:
    """Yield a text in pieces, for `Yielding`: slices of the upload, and copies."""
    if task.act == "raise at once":
        raise ValueError("at once")
    for start in range(0, len(task.text), 100_000):
        piece = task.text[start : start + 100_000]
        yield piece if start % 200_000 else bytes(piece)
    if task.act == "raise":
        raise ValueError("at the end")
