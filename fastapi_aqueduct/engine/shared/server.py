"""PipelineServer: runs a flow for the API processes that connect to it."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable

from ..configuration import FixedConfiguration
from ..engine import LocalEngine
from ..lifecycle import Lifecycle
from ..memory.regions import most_guests
from ..system.cpu import available_cores
from ..workers.launch_errors import memory_error
from .desk import PipelineDesk
from .gateway import Gateway
from .handshake import Hello
from .plan import Plan
from .planned_starter import PlannedStarter
from .reception import Reception

LINGER = 3.0
"""Seconds for which a pipeline without an owner goes on after the last API process has vanished."""


class PipelineServer:
    """Runs a flow for the API processes that connect to it.

    It accepts them while it starts, so that all of them wait for one start, and get its failure.

    Args:
        plan: The plan of the flow.
        listener: A listening socket.
        linger: Seconds after which it stops when no API process is there; it stops at once when the last one has left
            in order. None: it goes on until `stop`.
        on_ready: Called when the flow is running.
    """

    def __init__(
        self,
        plan: Plan,
        listener: socket.socket,
        linger: float | None = LINGER,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        version = sys.modules[__name__.partition(".")[0]].__version__
        expected = Hello(version, plan.options.name, plan.fingerprint, os.getpid())
        starter = PlannedStarter(plan)
        self._reception = Reception(listener, expected, self._note_change)
        configuration = FixedConfiguration(plan.options)
        guests = most_guests(available_cores())
        self._lifecycle = Lifecycle(configuration, lambda options: LocalEngine.build(options, starter, guests))
        self._linger = linger
        self._on_ready = on_ready
        self._desk: PipelineDesk
        self._gateway: Gateway | None = None
        self._stopping = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._kill: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Start the flow, serve, and stop.

        Raises:
            StartError, StartTimeout, ConfigurationError: The start failed, which all API processes that wait have got.
        """
        self._reception.open()
        self._note_change()
        try:
            if await self._start():
                await self._serve()
        finally:
            self._reception.close()
            self._cancel_timer()

    def stop(self) -> None:
        """Stop: wait for the tasks of all API processes, but not if this is called again."""
        if self._stopping.is_set() and self._kill is None:
            self._kill = asyncio.get_running_loop().create_task(self._lifecycle.stop(graceful=False))
        self._stopping.set()

    async def _start(self) -> bool:
        """Start the flow; tell whether it runs, and was not stopped before."""
        start = asyncio.create_task(self._lifecycle.start(None))
        stopped = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({start, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        start.cancel()
        try:
            await start
            self._open_gateway()
        except asyncio.CancelledError:
            if not start.cancelled():
                raise
            return False
        except Exception as exc:
            await self._lifecycle.stop(graceful=False)
            await self._reception.fail(exc)
            raise
        return True

    def _open_gateway(self) -> None:
        engine = self._lifecycle.engine
        assert isinstance(engine, LocalEngine)
        try:
            self._desk = PipelineDesk(engine)
        except OSError as exc:
            raise memory_error(engine.name, exc) from exc
        self._desk.attach(asyncio.get_running_loop())
        self._gateway = Gateway(engine, self._desk, self._on_empty)

    async def _serve(self) -> None:
        assert self._gateway is not None
        self._reception.serve(self._gateway.admit)
        self._note_change()
        self._on_ready()
        await self._stopping.wait()
        self._reception.close()
        self._gateway.close()
        await self._lifecycle.stop(graceful=True)
        self._gateway.end()
        self._desk.close()

    def _on_empty(self, has_left: bool) -> bool:
        """See that the last API process is gone; tell whether the pipeline ends."""
        self._note_change(has_left)
        return self._stopping.is_set()

    def _note_change(self, has_left: bool = False) -> None:
        """See whether any API process is there.

        Args:
            has_left: Whether the last one has left in order.
        """
        self._cancel_timer()
        if self._linger is None or self._reception.present or (self._gateway is not None and self._gateway.guests):
            return
        if has_left:
            self._stopping.set()
        else:
            self._timer = asyncio.get_running_loop().call_later(self._linger, self._stopping.set)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
