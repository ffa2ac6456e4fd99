"""A change of the workers of a step while it serves; there is one at a time."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable

from ...exceptions import StartError
from ..statistics import TrialReport
from .handle import WorkerHandle
from .slot import Slot


class Change(ABC):
    """A change of the workers of a step. It takes its steps in `advance`, after each event of a worker.

    Args:
        what: What happens to the step, such as ``"replaced"``.
        on_end: Called when the change has ended.
    """

    def __init__(self, what: str, on_end: Callable[[Change], None]) -> None:
        self.what = what
        self._on_end = on_end
        self._error: Exception | None = None
        self._done: asyncio.Future[None] | None = None

    async def run(self) -> None:
        """Make the change.

        Raises:
            StartError: A worker could not be started. Everything is as before.
            NotRunningError: The flow was stopped meanwhile.

        After a cancellation everything goes back, too, but that is not waited for.
        """
        self._done = asyncio.get_running_loop().create_future()
        try:
            self.advance()
            await self._done
        except asyncio.CancelledError:
            self.go_back()
            self.advance()
            raise

    @abstractmethod
    def advance(self) -> None:
        """Take the next step, if it is time for it."""

    @abstractmethod
    def go_back(self) -> None:
        """Have `advance` undo the change from now on."""

    def note_ready(self, worker: WorkerHandle) -> None:
        """Handle a worker that is ready."""
        self.advance()

    @abstractmethod
    def note_failed(self, slot: Slot, error: StartError) -> bool:
        """Handle a worker that could not be started; its slot is empty.

        Args:
            slot: Its slot.
            error: Why.

        Returns:
            Whether the change answers for it: then it is not launched again.
        """

    def note_death(self, slot: Slot, worker: WorkerHandle) -> bool:
        """Handle the death of a worker that was ready; its slot is empty.

        Args:
            slot: Its slot.
            worker: The worker.

        Returns:
            As `note_failed`.
        """
        return False

    def report(self) -> TrialReport | None:
        """Compare a handler that is tried out with the one that serves; None where none is."""
        return None

    def abandon(self, error: Exception) -> None:
        """Let `run` raise an error; the flow stops."""
        self._error = error
        self._set_done()

    def close(self) -> None:  # noqa: B027
        """Release what only the change needs, when it has ended or the flow has stopped."""

    def _fail(self, error: StartError) -> None:
        self._error = error
        self.go_back()

    def _end(self) -> None:
        self.close()
        self._on_end(self)
        self._set_done()

    def _set_done(self) -> None:
        if self._done is None or self._done.done():
            return
        if self._error is None:
            self._done.set_result(None)
        else:
            self._done.set_exception(self._error)
