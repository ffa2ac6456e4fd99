"""Handlers that are ``async def``; only workers of these tests import asyncio."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from fastapi_aqueduct import BaseTaskHandler

from ..handlers import note

CALLER = contextvars.ContextVar("caller", default="nothing")


class Life(BaseTaskHandler):
    """Notes whether all methods run in one event loop, and sees what `on_start` has set in its context."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def on_start(self) -> None:
        self.loop = asyncio.get_running_loop()
        CALLER.set("on_start")
        await asyncio.sleep(0)

    async def handle(self, task: Any) -> None:
        task.is_same_loop = self.loop is asyncio.get_running_loop()
        task.before = CALLER.get()
        name = f"call {id(task)}"  # the task itself would be part of a cycle, which waits for a garbage collection
        CALLER.set(name)
        await asyncio.sleep(0.01)
        task.is_its_own = CALLER.get() is name

    async def on_stop(self) -> None:
        await asyncio.sleep(0)
        note(self.path, f"stopped-{self.loop is asyncio.get_running_loop()}")


class PlainStart(BaseTaskHandler):
    """Has an ordinary `on_start` that needs the running event loop, and an ordinary `on_stop`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_start(self) -> None:
        self.future = asyncio.get_running_loop().create_future()

    async def handle(self, task: Any) -> None:
        if not self.future.done():
            self.future.set_result(7)
        task.number = await self.future

    def on_stop(self) -> None:
        note(self.path, "stopped")


class AsyncStart(BaseTaskHandler):
    """Has an ordinary `handle` between coroutines."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def on_start(self) -> None:
        self.loop = asyncio.get_running_loop()
        await asyncio.sleep(0)
        self.number = 7

    def handle(self, *tasks: Any) -> None:
        for task in tasks:
            task.number = self.number

    async def on_stop(self) -> None:
        await asyncio.sleep(0)
        note(self.path, f"stopped-{self.loop is asyncio.get_running_loop()}")


class FailingStart(BaseTaskHandler):
    """Cannot start."""

    async def on_start(self) -> None:
        await asyncio.sleep(0)
        raise FileNotFoundError("no model here")

    async def handle(self, task: Any) -> None: ...


class Counting(BaseTaskHandler):
    """Waits at the gate of its tasks, and notes in each of them how many calls were under way at most."""

    def __init__(self) -> None:
        self.calls = self.most = 0

    async def handle(self, *tasks: Any) -> None:
        self.calls += 1
        self.most = max(self.most, self.calls)
        for task in tasks:
            if task.finishes:
                task.most = 0
                task.finish()
        gate = tasks[0].gate
        gate.note_entry()
        while not gate.is_open():
            await asyncio.sleep(0.002)
        for task in tasks:
            if not task.finishes:
                task.most = self.most
                task.batch = len(tasks)
        self.calls -= 1


async def sleep(*tasks: Any) -> None:
    for task in tasks:
        await asyncio.sleep(task.seconds)


async def sleep_or_block(task: Any) -> None:
    if task.blocks:
        time.sleep(task.seconds)
    else:
        await asyncio.sleep(task.seconds)


async def sleep_and_note_end(task: Any) -> None:
    note(task.path, "begun")
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        note(task.path, "cancelled")
        raise
    finally:
        note(task.path, "finally")


async def sleep_and_note_path(task: Any) -> None:
    Path(task.path).touch()
    await asyncio.sleep(60)


async def raise_when_cancelled(task: Any) -> None:
    note(task.path, "begun")
    try:
        await asyncio.sleep(60)
    finally:
        raise RuntimeError("in finally")


async def wait_for_gate(*tasks: Any) -> None:
    for task in tasks:
        if task.is_bad:
            raise ValueError("bad")
        if task.gate is not None:
            task.gate.note_entry()
            while not task.gate.is_open() and not task.is_cancelled:
                await asyncio.sleep(0.002)
        task.was_cancelled = task.is_cancelled


async def exit_or_sleep(task: Any) -> None:
    await asyncio.sleep(0.01)
    if task.exits:
        sys.exit(3)


async def die_or_sleep(task: Any) -> None:
    await asyncio.sleep(0.05)
    if task.is_deadly:
        os.kill(os.getpid(), signal.SIGKILL)


async def fork(task: Any) -> None:
    if not os.fork():
        return  # the child returns as a second worker would
    os.wait()
    await asyncio.sleep(0.01)
    task.is_parent = True


async def emit_from_thread(task: Any) -> None:
    loop = asyncio.get_running_loop()

    def work() -> None:
        for number in range(5):
            if task.is_safe:
                loop.call_soon_threadsafe(task.emit, number)
            else:
                task.emit(number)

    await asyncio.to_thread(work)
    await asyncio.sleep(0)  # a thread that has ended at once is not waited for, and its callbacks come in the next turn


async def finish_and_go_on(task: Any) -> None:
    task.emit(0)
    task.number = 1
    task.finish()
    if task.is_late:
        await asyncio.sleep(0.01)
    task.emit(1)


async def call_rounds(task: Any) -> None:
    for _ in BaseTaskHandler().rounds([task]):
        raise AssertionError("it gave a round")


async def yield_at_once(task: Any) -> Any:
    for number in range(task.count):
        yield number


async def yield_slowly(task: Any) -> Any:
    for number in range(task.count):
        await asyncio.sleep(task.seconds if number == task.at else 0)
        yield number


async def block_in_turns(task: Any) -> Any:
    for number in range(task.count):
        time.sleep(task.seconds)
        yield number
