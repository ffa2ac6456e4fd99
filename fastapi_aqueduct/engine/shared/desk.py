"""The desk of a pipeline process: all that it does for API processes beside running their tasks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable

from ..engine import LocalEngine
from ..state import FlowState
from ..wire.frames import Kind, ProtocolError, unpack_offsets
from .board_writer import BoardWriter
from .failure_desk import FailureDesk
from .log_desk import LogDesk
from .request_desk import RequestDesk
from .status_feed import Guest, StatusFeed


class PipelineDesk:
    """Tells API processes how the pipeline is, and does what they ask for.

    Args:
        engine: The engine of the pipeline.

    Attributes:
        board_fd: The descriptor of the board, for API processes.

    Raises:
        OSError: No memory or no descriptor is left.
    """

    def __init__(self, engine: LocalEngine) -> None:
        dispatcher = self._dispatcher = engine.dispatcher
        self._admission = dispatcher.admission
        self._board = BoardWriter(
            engine.name, dispatcher.stages, dispatcher.route, lambda: dispatcher.in_flight
        )
        self.board_fd = self._board.fd
        self._requests = RequestDesk(engine)
        self._logs = LogDesk(engine.supervisor.logs)
        self._failures = dispatcher.failures.sink = FailureDesk()
        self._feed = StatusFeed(
            lambda: engine.statistics(FlowState.RUNNING),
            lambda: not dispatcher.in_flight,
            lambda: bool(self._admission.unavailable),
        )

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Work in the event loop that drives the engine."""
        self._board.attach(loop)
        self._feed.attach(loop)
        self._admission.on_change = self._note_workers

    def close(self) -> None:
        """Release the board, when no API process is served any more."""
        self._admission.on_change = _ignore
        self._requests.close()
        self._feed.detach()
        self._board.close()
        os.close(self.board_fd)

    def greeting(self, number: int) -> dict[str, bytes]:
        """Return what an API process gets to know with the welcome.

        Args:
            number: Its number.
        """
        return {"status": self._feed.first(number)}

    def join(self, guest: Guest) -> None:
        """Serve one more API process."""
        self._feed.join(guest)
        self._requests.join(guest)
        self._logs.join(guest)

    def leave(self, guest: Guest) -> None:
        """End what an API process has begun that is gone."""
        self._requests.leave(guest.number)
        self._logs.leave(guest.number)
        self._failures.leave(guest.number)
        self._feed.leave(guest.number)

    def note(self) -> None:
        """Note that frames of API processes were handled, or that answers are about to be sent to them."""
        self._board.note()
        self._feed.note()

    def handle(self, guest: Guest, kind: Kind, payload: bytes) -> None:
        """Handle a frame that is not about tasks.

        Raises:
            ProtocolError: It makes no sense.
        """
        if kind is Kind.STATUS:
            self._feed.on_report(guest.number, payload)
        elif kind is Kind.CALL:
            self._requests.handle(guest, payload)
        elif kind is Kind.LEVELS:
            self._logs.on_levels(guest.number, payload)
        elif kind is Kind.RECORD:
            self._failures.join(guest)
        elif kind is Kind.WAKE:
            self._wake(unpack_offsets(payload))
        else:
            raise ProtocolError(f"an API process does not send frames of kind {kind.name}")

    def _wake(self, steps: Iterable[int]) -> None:
        for index in steps:
            if index >= len(self._dispatcher.stages):
                raise ProtocolError(f"there is no step {index}")
            self._admission.wake_at(index)

    def _note_workers(self) -> None:
        self._board.note_workers()
        self._feed.note_soon()


def _ignore() -> None:
    """Handle a change of workers while no API process is served."""
