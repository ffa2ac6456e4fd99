"""The calls of ``worker_init``, `on_start`, `check` and `on_stop`, which may be ``async def``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...handler import BaseTaskHandler, form_of, has_check
from .checks import Checks
from .return_check import ReturnCheck
from .worker import Worker

if TYPE_CHECKING:  # imported with the first coroutine: most workers need no asyncio
    from .event_loop import EventLoop


class Hooks:
    """Calls ``worker_init``, `on_start`, `check` and `on_stop`, in the event loop of the worker if it has one.

    Args:
        handler: The handler of the step.
        check: Checks what they return.
    """

    def __init__(self, handler: BaseTaskHandler, check: ReturnCheck) -> None:
        self._handler = handler
        self._check = check
        self._event_loop: EventLoop | None = None

    @property
    def event_loop(self) -> EventLoop:
        """The event loop; made when it is first used."""
        if self._event_loop is None:
            from .event_loop import EventLoop

            self._event_loop = EventLoop()
        return self._event_loop

    def init(self, function: Callable[[], Any]) -> None:
        """Call ``worker_init``. Where it is ``async def``, the event loop is that of the handler's coroutines."""
        value = function()
        if inspect.isawaitable(value):
            self.event_loop.run(_wait_for(value))

    def start(self) -> None:
        """Call `on_start`; in the event loop if the handler is to run in it, since clients may belong to a loop."""
        if form_of(self._handler).is_async:
            self.event_loop.run(self._call_in_loop("on_start"))
        else:
            self._call("on_start")

    def check(self, worker: Worker) -> None:
        """Check the handler, if it has `check`, and let the worker do so when it is asked.

        Args:
            worker: The worker, to which the checks are reported.
        """
        if not has_check(self._handler):
            return
        checks = Checks(worker, self._handler, lambda: self.event_loop)
        if form_of(self._handler).is_async:
            worker.check = checks.begin
            self.event_loop.run(checks.run_in_loop())
        else:
            worker.check = checks.run
            checks.run()

    def stop(self) -> None:
        """Call `on_stop`, and close the event loop."""
        try:
            if self._event_loop is None:
                self._call("on_stop")
            else:
                self._event_loop.run(self._call_in_loop("on_stop"))
        finally:
            if self._event_loop is not None:
                self._event_loop.close()

    def _call(self, method: str) -> None:
        value: Any = getattr(self._handler, method)()
        if inspect.isawaitable(value):
            self.event_loop.run(_wait_for(value))
        else:
            self._check.check(method, value)

    async def _call_in_loop(self, method: str) -> None:
        value: Any = getattr(self._handler, method)()
        if inspect.isawaitable(value):
            await value
        else:
            self._check.check(method, value)


async def _wait_for(value: Any) -> None:
    await value
