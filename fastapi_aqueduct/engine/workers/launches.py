"""The launches of workers that are under way."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from .handle import WorkerHandle
from .launcher import Launcher
from .pool import Pool
from .slot import Slot
from .template import Template


class Launches:
    """Starts the processes of workers, each in a task of its own.

    Args:
        launcher: Starts a process.
        on_process: Called in the event loop with a pool, a slot and its worker, which has a process now.
        on_failure: Called with a pool, a slot and the exception when there is none.
    """

    def __init__(
        self,
        launcher: Launcher,
        on_process: Callable[[Pool, Slot, WorkerHandle], None],
        on_failure: Callable[[Pool, Slot, BaseException], None],
    ) -> None:
        self._launcher = launcher
        self._on_process = on_process
        self._on_failure = on_failure
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Work in an event loop."""
        self._loop = loop
        if self._launcher.template is not None:
            self._launcher.template.attach(loop)

    def detach(self) -> None:
        """Stop calling back: what has a process by now is found by the next event loop."""
        self._loop = None
        if self._launcher.template is not None:
            self._launcher.template.detach()

    def begin(self, pool: Pool, slot: Slot, worker: WorkerHandle, theirs: socket.socket) -> None:
        """Start the process of a worker.

        Args:
            pool: Its pool.
            slot: Its slot.
            worker: The worker.
            theirs: Its end of the channel.
        """
        task = self._run(self._start(pool, slot, worker, theirs))
        task.add_done_callback(partial(self._undo, pool, slot, worker, theirs))

    def load(self, on_loaded: Callable[[], None], on_failure: Callable[[BaseException], None]) -> None:
        """Load the template, if there is one, before the first launch.

        Args:
            on_loaded: Called in the event loop when there is none, or it has loaded.
            on_failure: Called with the exception if it cannot be loaded.
        """
        template = self._launcher.template
        if template is None:
            on_loaded()
        else:
            self._run(self._load(template, on_loaded, on_failure))

    async def end(self) -> None:
        """Wait until no launch is under way; a template that is loading is killed."""
        if self._launcher.template is not None:
            self._launcher.template.shut()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        assert self._loop is not None
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _undo(
        self, pool: Pool, slot: Slot, worker: WorkerHandle, theirs: socket.socket, task: asyncio.Task[None]
    ) -> None:
        """Empty the slot of a launch whose task was cancelled before its first step: none of its code has run."""
        if theirs.fileno() >= 0 and task.cancelled():
            theirs.close()
            self._on_failure(pool, slot, asyncio.CancelledError())

    async def _load(
        self, template: Template, on_loaded: Callable[[], None], on_failure: Callable[[BaseException], None]
    ) -> None:
        try:
            await self._launcher.load(template)
        except Exception as exc:
            on_failure(exc)
        else:
            on_loaded()

    async def _start(self, pool: Pool, slot: Slot, worker: WorkerHandle, theirs: socket.socket) -> None:
        try:
            await self._launcher.start(slot.spec, worker, theirs)
            if self._loop is asyncio.get_running_loop():
                self._on_process(pool, slot, worker)
            elif self._loop is not None:  # another one has taken over meanwhile, without having seen a process
                self._loop.call_soon_threadsafe(self._on_process, pool, slot, worker)
        except BaseException as exc:
            if isinstance(exc, Exception) or not worker.pid:
                self._on_failure(pool, slot, exc)
            if not isinstance(exc, Exception):
                raise  # the event loop ends; another one finds a process, or an empty slot
