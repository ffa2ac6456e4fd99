"""Handlers that tell how their model is; a file says what they tell."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from fastapi_aqueduct import BaseTaskHandler

from ..handlers import DEADLINE, Gate


class Unclear:
    """Is neither true nor false, as an array."""

    def __bool__(self) -> bool:
        raise ValueError("it is ambiguous")


class Mute(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise LookupError("no text")


class Checked(BaseTaskHandler):
    """Says in `check` what the file ``says``, and writes down that it was asked.

    Args:
        directory: Where the files are.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.is_in_call = False

    def check(self) -> object:
        with (self.directory / "checks").open("a") as file:
            file.write(f"{os.getpid()}\n")
        if self.is_in_call:
            raise RuntimeError("in a call")
        path = self.directory / "says"
        says = path.read_text() if path.exists() else ""
        if says == "raise":
            raise ValueError("the device is gone" + "!" * 2000)
        if says == "exit":
            raise SystemExit("not this time")
        if says == "mute":
            raise Mute
        if says == "unclear":
            return Unclear()
        if says == "gate":
            Gate(self.directory, "check").enter()
        if says == "hang":
            path.unlink()  # the next worker does not
            time.sleep(DEADLINE)
        return False if says == "no" else None

    def handle(self, *tasks: Any) -> None:
        self.is_in_call = True
        for task in tasks:
            self.work(task)
        self.is_in_call = False

    def work(self, task: Any) -> None:
        """Take a moment; with a gate look whether the caller still waits, which reads what the worker is sent."""
        if "gate" in task.__dict__:
            task.gate.enter()
        time.sleep(0.002)


class Looking(Checked):
    """Reads what the worker is sent in the middle of its call, until a check has been asked for."""

    def work(self, task: Any) -> None:
        until = time.monotonic() + task.seconds
        while time.monotonic() < until:
            assert not task.is_cancelled
            time.sleep(0.001)


class CheckedRounds(Checked):
    def handle(self, *tasks: Any) -> None:
        for live in self.rounds(tasks):
            for task in live:
                task.left -= 1
                time.sleep(0.002)
                if not task.left:
                    task.finish()


class CheckedGenerator(Checked):
    def handle(self, task: Any) -> Iterator[int]:  # type: ignore[override]
        for number in range(task.left):
            time.sleep(0.002)
            yield number


class CheckedCoroutine(Checked):
    async def handle(self, *tasks: Any) -> None:  # type: ignore[override]
        await asyncio.sleep(0.01)


class CheckedInLoop(CheckedCoroutine):
    """Waits in `check`."""

    async def check(self) -> object:
        answer = super().check()
        if (self.directory / "waits").exists():
            await asyncio.sleep(DEADLINE)
        return answer


class CheckedAsyncGenerator(Checked):
    async def handle(self, task: Any) -> AsyncIterator[int]:  # type: ignore[override]
        for number in range(task.left):
            await asyncio.sleep(0.002)
            yield number


class PlainAwaited(Checked):
    """Calls of `handle` run one after the other, and `check` is ``async def`` nevertheless."""

    async def check(self) -> object:
        await asyncio.sleep(0)
        return super().check()
