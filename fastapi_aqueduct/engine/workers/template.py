"""What is loaded once for all workers of a flow."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

from ..statistics import TemplateStatistics


class Template(ABC):
    """What is loaded once for all workers of a flow: the option ``template`` of `fastapi_aqueduct.Flow`."""

    @abstractmethod
    def load(self, lifeline_fd: int) -> None:
        """Load, in a thread, before the first worker is started.

        Args:
            lifeline_fd: Read end of a pipe whose write end only this process has.

        Raises:
            StartError: This failed, or was interrupted.
        """

    @abstractmethod
    def interrupt(self) -> None:
        """Let a `load` that is under way fail, also one for a worker."""

    @abstractmethod
    def shut(self) -> None:
        """As `interrupt`, and load nothing more: the flow is being stopped."""

    @abstractmethod
    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Report its end from an event loop."""

    @abstractmethod
    def detach(self) -> None:
        """Report nothing until there is another event loop."""

    @abstractmethod
    def close(self) -> None:
        """Release it, when all workers have ended."""

    @abstractmethod
    def forget(self) -> None:
        """Close its descriptors only: in a forked child, which does not own it."""

    @abstractmethod
    def statistics(self) -> TemplateStatistics:
        """Return a snapshot."""
