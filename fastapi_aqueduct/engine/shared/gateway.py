"""The gateway of a pipeline process: lets API processes in, and serves them until they are gone."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable

from ...logger import log
from ..engine import LocalEngine
from ..wire.frames import Kind, pack
from .desk import PipelineDesk
from .guest import Guest
from .handshake import ServerEnd, Welcome, send_refusal, send_welcome


class Gateway:
    """Lets API processes in, and serves them in the event loop that drives the engine.

    Args:
        engine: The engine, which runs.
        desk: Does for API processes what is not about tasks.
        on_empty: Called when the last API process is gone, with whether it has said so. Returns whether the pipeline
            ends for that: then the one that has left waits for its end.
    """

    def __init__(self, engine: LocalEngine, desk: PipelineDesk, on_empty: Callable[[bool], bool]) -> None:
        self._engine = engine
        self._desk = desk
        self._on_empty = on_empty
        self._guests: set[Guest] = set()
        self._regions = list(engine.memory.arena.layout.guest_regions)
        self._numbers = itertools.count(1)
        self._is_closed = False
        self._last: Guest | None = None

    @property
    def guests(self) -> set[Guest]:
        """The API processes that are served."""
        return self._guests

    def admit(self, end: ServerEnd) -> None:
        """Serve an API process whose greeting has come; or refuse it, and say why.

        Args:
            end: Its connection.
        """
        name, engine = self._engine.name, self._engine
        if self._is_closed:
            end.close()  # it looks for the next one
            return
        if not self._regions:
            send_refusal(
                end,
                f"the pipeline of flow {name} serves {len(self._guests)} API processes already, and no more can share "
                "it (a rolling restart counts twice)",
            )
            return
        region = self._regions.pop(0)
        blocks = engine.memory.occupy(region)
        engine.memory.arena.status.reset(region)
        steps = tuple(stage.name for stage in engine.dispatcher.stages)
        number = next(self._numbers)
        settings = self._desk.greeting(number)
        welcome = Welcome(engine.memory.arena.layout, region, blocks, steps, os.getpid(), settings)
        parts = engine.dispatcher, engine.entry, engine.memory, self._desk, self._desk.note, self._remove
        guest = Guest(end.sock, end.pidfd, end.hello.pid, number, region, blocks, *parts)
        try:
            send_welcome(end, welcome, engine.memory_fd, self._desk.board_fd)
        except OSError:  # it is gone
            self._vacate(region)
            end.close()
            return
        self._guests.add(guest)
        guest.attach(asyncio.get_running_loop())
        self._desk.join(guest)
        log.info("API process %d joins the pipeline of flow %s: %d served", guest.pid, name, len(self._guests))

    def close(self) -> None:
        """Let no further API process in, and tell the others that the pipeline stops; their tasks go on."""
        self._is_closed = True
        for guest in self._guests:
            guest.send(pack(Kind.STOPPING))

    def end(self) -> None:
        """End the connections."""
        for guest in list(self._guests):
            self._guests.discard(guest)
            self._desk.leave(guest)
            guest.close()
            guest.hang_up()
        if self._last is not None:
            self._last.hang_up()

    def _remove(self, guest: Guest) -> None:
        self._guests.discard(guest)
        self._desk.leave(guest)
        self._vacate(guest.region)
        how = "leaves" if guest.has_left else "has ended, and is gone from"
        log.info("API process %d %s the pipeline of flow %s", guest.pid, how, self._engine.name)
        if not self._guests and self._on_empty(guest.has_left):
            self._last = guest
        else:
            guest.hang_up()

    def _vacate(self, region: int) -> None:
        self._engine.memory.vacate(region)
        self._regions.append(region)
