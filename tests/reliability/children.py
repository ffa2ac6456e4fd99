"""Handlers that make processes of their own and leave them to their fate."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

from fastapi_aqueduct import BaseTaskHandler

from ..handlers import note


class Parent(BaseTaskHandler):
    """Makes children at its first task, and names them in each.

    Args:
        directory: Where children and `on_stop` write down that they end.
        *kinds: Functions that make a child, or several.
    """

    def __init__(self, directory: Path, *kinds: Callable[[Parent], list[int]]) -> None:
        self.directory = directory
        self.kinds = kinds
        self.children: list[int] = []
        self.pools: list[ProcessPoolExecutor] = []

    def handle(self, *tasks: Any) -> None:
        if not self.children:
            self.children = [pid for kind in self.kinds for pid in kind(self)]
        for task in tasks:
            task.children = self.children
            task.pid = os.getpid()
            if hasattr(task, "function"):
                task.function(task)

    def on_stop(self) -> None:
        note(self.directory / "stopped", os.getpid())


def polite(parent: Parent) -> list[int]:
    """Fork one that writes down that it got SIGTERM, and ends."""

    def leave(*args: object) -> NoReturn:
        note(parent.directory / "terminated", os.getpid())
        os._exit(0)

    return _fork(leave)


def stubborn(parent: Parent) -> list[int]:
    """Fork one that ignores SIGTERM."""
    return _fork(signal.SIG_IGN)


def fork_pool(parent: Parent) -> list[int]:
    """Make a pool of forked processes that is never shut down."""
    return _pool(parent, "fork")


def spawn_pool(parent: Parent) -> list[int]:
    """Make a pool of fresh interpreters that is never shut down."""
    return _pool(parent, "spawn")


def _fork(on_sigterm: Any) -> list[int]:
    before = signal.signal(signal.SIGTERM, on_sigterm)
    child = os.fork()
    if not child:
        while True:
            signal.pause()
    signal.signal(signal.SIGTERM, before)
    return [child]


def _pool(parent: Parent, method: str) -> list[int]:
    pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method))
    parent.pools.append(pool)
    return [pool.submit(os.getpid).result()]


# Functions of tasks that fork


def fork_and_come_back(task: Any) -> None:
    """Fork a child that leaves the handler as ``task.way`` says, and wait for its end."""
    child = os.fork()
    if not child:
        _come_back(task.way)
        return
    task.exit_code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    task.pid = os.getpid()


class ForkingAtStart(BaseTaskHandler):
    """Forks a child before it is ready, which leaves `on_start` as ``way`` says."""

    def __init__(self, way: str) -> None:
        self.way = way
        self.exit_code = -1

    def on_start(self) -> None:
        child = os.fork()
        if not child:
            _come_back(self.way)
            return
        self.exit_code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def handle(self, *tasks: Any) -> None:
        for task in tasks:
            task.exit_code = self.exit_code


def _come_back(way: str) -> None:
    if way == "exit":
        sys.exit(3)
    if way == "error":
        raise EOFError("in the child")
