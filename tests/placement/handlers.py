"""What runs in the actors of the tests."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi_aqueduct import BaseTask, BaseTaskHandler, worker_info

from ..handlers import Gate, note

request_id: ContextVar[str] = ContextVar("request_id", default="none")

log = logging.getLogger("remote")


@dataclass
class Call(BaseTask):
    """What one task wants of `Remote`.

    Attributes:
        deed: The name of a method of `Remote`.
        value: Its argument.
        result: What it returns.
        pid: The process of the handler.
        node: Its machine.
        size: The number of tasks in its call.
    """

    deed: str = "nothing"
    value: Any = None
    result: Any = field(default=None, init=False)
    pid: int = field(default=0, init=False)
    node: str | None = field(default=None, init=False)
    size: int = field(default=0, init=False)


class Remote(BaseTaskHandler):
    """Does what tasks want, in an actor.

    Args:
        directory: A directory of the test, for notes of its life.
        version: Added to the notes.
    """

    def __init__(self, directory: Path, version: str = "first") -> None:
        self.directory = directory
        self.version = version

    def on_start(self) -> None:
        note(self.directory / "started", os.getpid())
        log.warning("started %s", self.version)

    def handle(self, *tasks: Call) -> None:
        for task in tasks:
            task.pid, task.node, task.size = os.getpid(), worker_info().node, len(tasks)
            try:
                task.result = getattr(self, task.deed)(task, task.value)
            except KeyError as exc:
                task.fail(exc)

    def on_stop(self) -> None:
        note(self.directory / "stopped", os.getpid())

    def nothing(self, task: Call, value: Any) -> None:
        """Do nothing."""

    def double(self, task: Call, value: Any) -> Any:
        """Make a new array."""
        return value * 2

    def keep(self, task: Call, value: Any) -> Any:
        """Return what came."""
        return value

    def fail(self, task: Call, value: Any) -> None:
        """Raise an exception with a traceback."""
        raise ValueError("not a picture", value)

    def fail_alone(self, task: Call, value: Any) -> None:
        """Fail this task and no other one."""
        raise KeyError(value)

    def wait(self, task: Call, gate: Gate) -> bool:
        """Wait until the test opens the gate; tell whether the caller has left meanwhile."""
        gate.enter()
        return task.is_cancelled

    def sleep(self, task: Call, seconds: float) -> None:
        """Work for some time."""
        time.sleep(seconds)

    def die(self, task: Call, value: Any) -> None:
        """End this process at once."""
        os.kill(os.getpid(), signal.SIGKILL)

    def freeze(self, task: Call, value: Any) -> None:
        """Stop this process, as a driver that hangs."""
        os.kill(os.getpid(), signal.SIGSTOP)

    def say(self, task: Call, text: str) -> None:
        """Log a record, with arguments."""
        log.warning("said %s", text)

    def context(self, task: Call, value: Any) -> str:
        """Read a variable of the caller."""
        return request_id.get()

    def told_version(self, task: Call, value: Any) -> str:
        """Return the version of the handler."""
        return self.version

    def share(self, task: Call, value: Any) -> None:
        """Do what no other machine can see."""
        task.share_value("value")

    def remaining(self, task: Call, value: Any) -> float:
        """Return the seconds until the deadline, on this machine's clock."""
        assert task.expiration_time is not None
        return task.expiration_time - time.monotonic()


class Beside(BaseTaskHandler):
    """Sets fields beside `Remote`, in a worker.

    Args:
        name: Their prefix.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def handle(self, *tasks: Any) -> None:
        for task in tasks:
            setattr(task, f"{self.name}_sum", int(task.value.sum()))
            setattr(task, f"{self.name}_value", task.value)


def has_both(task: Any) -> bool:
    """Tell what is known only of the joined task, and of half of the tasks."""
    return bool(task.left_sum == task.right_sum and task.left_sum % 2)


class Count(BaseTaskHandler):
    """Yields numbers, and large arrays."""

    def handle(self, task: Call) -> Iterator[Any]:
        import numpy as np

        for number in range(task.value):
            yield np.full(100_000, number)
        task.result = "counted"


class Twice(BaseTaskHandler):
    """Waits in an event loop."""

    async def handle(self, task: Call) -> None:
        import asyncio

        await asyncio.sleep(0.01)
        task.result = task.value * 2


class Broken(BaseTaskHandler):
    """Cannot start."""

    def on_start(self) -> None:
        raise OSError(5, "no such model")

    def handle(self, task: Call) -> None:
        """Never called."""


class Checked(Remote):
    """Says that its model is unhealthy while a file is there."""

    def check(self) -> bool:
        return not (self.directory / "ill").exists()
