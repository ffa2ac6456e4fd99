"""A base for clients of a SocketFlow in servers of zeroapi."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from ..sockets.flow import SocketFlow


class BaseFlowClient(ABC):
    """Connects to the pipeline that was preloaded under its name.

    Attributes:
        _name: Name of the SocketFlow; a subclass sets it.
    """

    _name = ""

    def __init__(self) -> None:
        self._flow = SocketFlow(self._name)

    async def connect(self) -> None:
        """Connect to the pipeline process; see `SocketFlow.start`."""
        await self._flow.start()

    async def disconnect(self) -> None:
        """Leave the pipeline process; see `SocketFlow.stop`."""
        await self._flow.stop()

    @abstractmethod
    async def process(self, *args: Any, **kwargs: Any) -> Any:
        """Make a task, and process it: ``await self._flow.process([task])``.

        Args:
            *args: What a subclass defines.
            **kwargs: What a subclass defines.
        """
