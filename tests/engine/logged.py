"""What the tests of log records run in workers."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from typing import Any

from fastapi_aqueduct import BaseTask, BaseTaskHandler

log = logging.getLogger("tests.logged")
quiet = logging.getLogger("tests.logged.quiet")
alone = logging.getLogger("tests.alone")
alone.propagate = False

REQUEST: ContextVar[str] = ContextVar("request")


class Written(logging.Handler):
    """Keeps the records that a handler of the worker would write."""

    records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


class Act(BaseTask):
    """A task that says what is done with it, in which form of handler."""

    result: Any = None

    def __init__(self, act: str, *values: Any, form: str = "plain") -> None:
        self.act = act
        self.values = values
        self.form = form


class Is:
    """A condition: a task goes to the step of its form."""

    def __init__(self, form: str) -> None:
        self.form = form

    def __call__(self, task: Act) -> bool:
        return task.form == self.form


class Plain(BaseTaskHandler):
    def on_start(self) -> None:
        log.info("on_start")
        log.addHandler(Written())
        alone.addHandler(Written())
        quiet.setLevel(logging.ERROR)

    def handle(self, *tasks: Act) -> None:
        for task in tasks:
            task.result = globals()[task.act](*task.values)

    def on_stop(self) -> None:
        log.info("on_stop")
        raise ConnectionError("cannot close")


class Batch(BaseTaskHandler):
    def handle(self, *tasks: Act) -> None:
        log.info("batch of %d", len(tasks))


class Generator(BaseTaskHandler):
    def handle(self, *tasks: Act) -> Iterator[int]:
        for number in range(2):
            log.info("item %d of %s", number, tasks[0].values[0])
            yield number


class Coroutine(BaseTaskHandler):
    async def handle(self, *tasks: Act) -> None:
        for number in range(2):
            log.info("turn %d of %s", number, tasks[0].values[0])
            await asyncio.sleep(0)
        await asyncio.to_thread(log.info, "thread of %s", tasks[0].values[0])


class Async(BaseTaskHandler):
    async def handle(self, *tasks: Act) -> AsyncIterator[int]:
        for number in range(2):
            log.info("item %d of %s", number, tasks[0].values[0])
            yield number
            await asyncio.sleep(0)


class Continuous(BaseTaskHandler):
    def handle(self, *tasks: Act) -> None:
        for live in self.rounds(tasks):
            log.info("round of %d", len(live))
            for task in live:
                task.finish()


class Deadly:
    """An argument whose text logs the argument."""

    def __str__(self) -> str:
        log.info("made from %s", self)
        return "deadly"


def say(text: str, level: int = logging.INFO, name: str = "tests.logged") -> None:
    logging.getLogger(name).log(level, text, extra={"page": 7})


def enabled(name: str, level: int) -> bool:
    return logging.getLogger(name).isEnabledFor(level)


def written() -> int:
    """Count what handlers of this process have got."""
    return len(Written.records)


def fail() -> None:
    try:
        raise ValueError("torn")
    except ValueError:
        log.exception("could not read %s", "a.png", stack_info=True)


def warn(text: str) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=1)


def fail_in_thread() -> None:
    thread = threading.Thread(target=raise_error, name="reader")
    thread.start()
    thread.join()


def raise_error() -> None:
    raise ValueError("torn")


def end_thread() -> None:
    thread = threading.Thread(target=sys.exit)
    thread.start()
    thread.join()


def recurse() -> None:
    log.info("text of %s", Deadly())


def die(how: str) -> None:
    log.info("about to die by %s", how)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "exit":
        os._exit(3)
    ctypes.string_at(0)


def burst(count: int, text: str) -> float:
    """Log many records, and return the seconds that it took."""
    started = time.monotonic()
    for number in range(count):
        log.info("%d %s", number, text)
    return time.monotonic() - started
