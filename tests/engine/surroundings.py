"""Handlers of each form that note the context of a call: the current tasks, and the context variables of callers."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar, copy_context
from pathlib import Path
from typing import Any

from fastapi_aqueduct import BaseTaskHandler, task_context
from fastapi_aqueduct.engine.child.current import current_tasks

from ..handlers import note

REQUEST: ContextVar[Any] = ContextVar("request_id")
USER: ContextVar[Any] = ContextVar("user_name", default="unknown")
LOCAL: ContextVar[Any] = ContextVar("local", default=None)
"""Not declared by the flow."""


class Fragile:
    """Can be pickled, and not be unpickled."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


class Form:
    """Tells which step a task goes to.

    Args:
        name: The form of its handler.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, task: Any) -> bool:
        if task.form == "chosen by context":
            return bool(self.name == "coroutine" or REQUEST.get("") == f"to {self.name}")
        return bool(task.form == self.name)


def look(*tasks: Any) -> None:
    """Note, on each of some tasks, the numbers of the current tasks, and the values of the variables."""
    numbers = sorted(item.task.__dict__["number"] for item in current_tasks())
    for task in tasks:
        task.seen = [*getattr(task, "seen", []), numbers]
        task.values = [*getattr(task, "values", []), (REQUEST.get(None), USER.get(), LOCAL.get())]


class Starting(BaseTaskHandler):
    """Has values of its own, from the start of the worker."""

    def on_start(self) -> None:
        REQUEST.set("the start")
        LOCAL.set("local")


class Plain(Starting):
    """Raises for a batch with a task that fails, so that each is run again alone."""

    def handle(self, *tasks: Any) -> None:
        look(*tasks)
        if any(task.act == "fail" for task in tasks):
            raise ValueError("fails")
        for target in (look, copy_context().run):
            arguments = tasks if target is look else (look, *tasks)
            thread = threading.Thread(target=target, args=arguments)
            thread.start()
            thread.join()
        if tasks[0].act == "die once" and not tasks[0].mark.exists():
            tasks[0].mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        USER.set("of another call")


class Each(Starting):
    """Works for each task of a batch."""

    def handle(self, *tasks: Any) -> None:
        for task in tasks:
            with task_context(task):
                look(task)
        look(*tasks)


class Rounds(Starting):
    """Finishes each task in the round of its number."""

    def handle(self, *tasks: Any) -> None:
        for number, live in enumerate(self.rounds(tasks)):
            look(*live)
            for task in live:
                if task.number <= number:
                    task.finish()


class Generator(Starting):
    """Waits for others with an open turn, and sets a variable in its first one."""

    def handle(self, task: Any) -> Iterator[Any]:
        try:
            for number in range(3):
                look(task)
                LOCAL.set(task.number)
                yield number
        finally:
            if task.act == "leave":
                note(task.mark, f"{REQUEST.get()}-{task.number}")
            look(task)


class Coroutine(Starting):
    """Runs side by side, looks in a thread, and leaves a callback behind that looks after its end."""

    late: asyncio.Future[list[Any]] | None = None

    async def handle(self, *tasks: Any) -> None:
        look(*tasks)
        await asyncio.sleep(0.01)
        await asyncio.to_thread(look, *tasks)
        if self.late is not None:
            tasks[0].late = len(await self.late)
        self.late = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.01, lambda future: future.set_result(current_tasks()), self.late)


class AsyncGenerator(Starting):
    """Streams side by side."""

    async def handle(self, task: Any) -> AsyncIterator[Any]:
        for number in range(3):
            look(task)
            await asyncio.sleep(0.001)
            yield number


# Functions for `worker_init`


class Initial:
    """Notes the start of a worker.

    Args:
        path: The file for the notes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self) -> None:
        note(self.path, "init")


async def initial_in_loop() -> None:
    await asyncio.sleep(0)
    LOCAL.set(asyncio.get_running_loop())


def failing_init() -> None:
    raise ValueError("no seed")


class Loop(BaseTaskHandler):
    """Sees whether `worker_init` ran in its event loop."""

    async def handle(self, task: Any) -> None:
        task.is_same_loop = LOCAL.get() is asyncio.get_running_loop()
