"""Tasks of jobs, and what works on them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi_aqueduct import BaseTask, BaseTaskHandler, Upload

from ..handlers import DEADLINE


@dataclass
class Scan(BaseTask):
    """A body and a number beside it."""

    image: Upload
    factor: int = 1
    total: int = field(default=0, init=False)


class Add(BaseTaskHandler):
    """Adds up the bytes of an image."""

    def handle(self, *tasks: Scan) -> None:
        for task in tasks:
            task.total = sum(task.image) * task.factor


@dataclass
class Work(BaseTask):
    """Work with a name."""

    name: str
    payload: Any = None
    done: str = field(default="", init=False)


class Worker(BaseTaskHandler):
    """Does work when the test lets it; in a thread of the test's process.

    Attributes:
        begun: The names of the works that have begun.
        gate: Lets work go on.
        saw_cancel: Set when work has seen that it was cancelled.
    """

    def __init__(self, is_open: bool = True) -> None:
        self.begun: list[str] = []
        self.gate = threading.Event()
        self.saw_cancel = threading.Event()
        if is_open:
            self.gate.set()

    def handle(self, task: Work) -> None:
        self.begun.append(task.name)
        while not self.gate.wait(0.005):
            if task.is_cancelled:
                self.saw_cancel.set()
                return
        if task.name == "bad":
            raise ValueError("bad work" if task.payload is None else task.payload)
        task.done = task.name.upper()


class Part(BaseTaskHandler):
    """Does a part of work beside others, when the test lets it: emits its name, and sets a field of that name.

    Args:
        name: The name.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.begun = threading.Event()
        self.gate = threading.Event()
        self.saw_cancel = threading.Event()

    def handle(self, task: Work) -> None:
        task.emit(self.name)
        self.begun.set()
        while not self.gate.wait(0.005):
            if task.is_cancelled:
                self.saw_cancel.set()
                return
        setattr(task, "same" if task.name == "conflict" else self.name, self.name)


class Assemble(BaseTaskHandler):
    """Does the rest."""

    def handle(self, task: Any) -> None:
        task.done = f"{task.left} and {task.right} of {task.name}"


class Counter(BaseTaskHandler):
    """Counts aloud."""

    def handle(self, task: Work) -> Iterator[dict[str, int]]:
        for number in range(3):
            task.progress(number + 1, 3)
            yield {"number": number}
        task.done = "counted"


class Fragile(BaseTaskHandler):
    """Dies the first time."""

    def handle(self, task: Work) -> Iterator[int]:
        yield 1  # from here on the flow itself does not try again
        marker = Path(task.payload)
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        task.done = "at last"


def wait_for(event: threading.Event) -> None:
    """Wait for a handler."""
    assert event.wait(DEADLINE)


class Pausing(BaseTaskHandler):
    """Does work, for as many seconds as its payload says; notes each time in a file."""

    def handle(self, task: Work) -> None:
        with open("runs", "a") as file:
            file.write(f"{task.name}\n")
        end = time.monotonic() + float(task.payload or 0)
        while time.monotonic() < end and not task.is_cancelled:
            time.sleep(0.01)
        task.done = task.name.upper()


class Deaf(BaseTaskHandler):
    """Does not ask whether it was cancelled."""

    def handle(self, task: Work) -> None:
        if task.payload:
            Path(task.payload).touch()
            time.sleep(DEADLINE)
        task.done = task.name.upper()
