"""A handler of each form that does what its tasks say, with the garbage collector off."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from fastapi_aqueduct import BaseTaskHandler

from ..handlers import DEADLINE, note


class Form(BaseTaskHandler):
    """Leaves to the reference counts what is no cycle."""

    def on_start(self) -> None:
        gc.disable()

    def answer(self, task: Any) -> Any:
        """Do what a task says; return its last item."""
        return globals()[task.act](task)


class Plain(Form):
    """Works on one task after the other."""

    def handle(self, *tasks: Any) -> None:
        for task in tasks:
            task.emit(self.answer(task))


class Generator(Form):
    """Takes turns."""

    def handle(self, task: Any) -> Iterator[Any]:
        yield
        yield self.answer(task)


class Rounds(Form):
    """Has two rounds for each task."""

    def handle(self, *tasks: Any) -> None:
        begun: set[str] = set()
        for live in self.rounds(tasks):
            for task in live:
                if task.task_id in begun:
                    task.emit(self.answer(task))
                    task.finish()
                begun.add(task.task_id)


class Coroutine(Form):
    """Runs side by side."""

    async def handle(self, *tasks: Any) -> None:
        for task in tasks:
            await asyncio.sleep(0)
            task.emit(self.answer(task))


class AsyncGenerator(Form):
    """Streams side by side."""

    async def handle(self, task: Any) -> AsyncIterator[Any]:
        await asyncio.sleep(0)
        yield
        yield self.answer(task)


# What tasks say


def double(task: Any) -> Any:
    task.result = task.payload * 2
    return task.payload


def fail(task: Any) -> Any:
    try:
        raise ValueError("fails")
    except ValueError as exc:
        task.fail(exc)
    return task.payload


def throw(task: Any) -> Any:
    result = task.payload * 2
    raise ValueError(f"raises {result.nbytes}")


def hang(task: Any) -> None:
    time.sleep(60)


def wait_until_cancelled(task: Any) -> Any:
    note(task.path, "begun")
    deadline = time.monotonic() + DEADLINE
    while not task.is_cancelled and time.monotonic() < deadline:
        time.sleep(0.002)
    note(task.path, "cancelled" if task.is_cancelled else "late")
    return task.payload


def report(task: Any) -> Any:
    for number in range(1000):
        task.progress(number + 1, 1000)
    task.progress(1, 2)  # too soon
    task.gate.enter()
    return "end"


def use_thread(task: Any) -> Any:
    errors = []

    def work() -> None:
        for method in (lambda: task.emit(1), lambda: task.progress(1, 2), task.finish):
            try:
                method()
            except Exception as exc:
                errors.append(str(exc))
        task.was_cancelled = task.is_cancelled

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    task.errors = errors


# Handlers that do something unusual


class FinishingEarly(BaseTaskHandler):
    """Finishes some tasks before the rounds."""

    def handle(self, *tasks: Any) -> None:
        for task in tasks:
            task.number += 1
            if task.is_early:
                task.finish()
        for live in self.rounds(tasks):
            for task in live:
                task.number += 10
                task.finish()


class Ignoring(BaseTaskHandler):
    """Does nothing with what rounds give, or leaves them."""

    def handle(self, *tasks: Any) -> None:
        for live in self.rounds(tasks):
            time.sleep(0.002)
            if any(task.leaves for task in live):
                for task in live:
                    task.number = 1
                break


class YieldingLate(BaseTaskHandler):
    """Yields after the end, in the same turn or another one."""

    def handle(self, task: Any) -> Iterator[Any]:
        yield 1
        task.number = 1
        task.finish()
        if task.item is not None:
            yield task.item
        else:
            yield
        raise AssertionError("a finished generator had another turn")


class RaisingLate(BaseTaskHandler):
    """Raises when its tasks are finished."""

    def handle(self, *tasks: Any) -> None:
        for live in self.rounds(tasks):
            for task in live:
                task.number = 1
                task.finish()
            raise ValueError("too late")
