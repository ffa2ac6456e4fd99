"""Handlers whose methods return what a worker has no use for; each worker of these tests imports this module."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from fastapi_aqueduct import BaseTask, BaseTaskHandler


class Number(BaseTask):
    """A number."""

    def __init__(self, value: int = 0) -> None:
        super().__init__()
        self.value = value


class Returning(BaseTaskHandler):
    """Does its work and returns a list, as a function would."""

    def handle(self, *tasks: Number) -> list[int]:
        for task in tasks:
            task.value += 1
        return [task.value for task in tasks]


def measured(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function in an ordinary one, as many decorators do whatever they wrap."""

    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


class HiddenCoroutine(BaseTaskHandler):
    """A coroutine function that does not look like one."""

    @measured
    async def handle(self, *tasks: Number) -> None:
        for task in tasks:
            task.value += 1


class HiddenGenerator(BaseTaskHandler):
    """A generator function that does not look like one."""

    @measured
    def handle(self, *tasks: Number) -> Iterator[int]:
        for task in tasks:
            task.value += 1
            yield task.value


class HiddenAsyncGenerator(BaseTaskHandler):
    """An asynchronous generator function that does not look like one."""

    @measured
    async def handle(self, *tasks: Number) -> AsyncIterator[int]:
        for task in tasks:
            task.value += 1
            yield task.value


class HiddenStart(BaseTaskHandler):
    """Cannot load its model, in a coroutine function that does not look like one."""

    @measured
    async def on_start(self) -> None:
        raise AssertionError("it was awaited")

    def handle(self, *tasks: Number) -> None:
        pass
