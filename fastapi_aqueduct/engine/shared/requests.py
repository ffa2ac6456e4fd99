"""Calls of an API process to its pipeline process: another handler, another number of workers, a trial."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

from ...exceptions import NotRunningError
from ..statistics import TrialReport
from ..wire.codec import Encoded
from ..wire.failures import decode_logged
from ..wire.frames import Kind
from .messages import pack_message, unpack_message
from .status_feed import Send

CANCEL = "cancel"
"""The name of a request that withdraws the one of the same number."""


class Request(NamedTuple):
    """What a frame of kind CALL contains.

    Attributes:
        number: The number of the request in its process.
        name: What is to be done.
        arguments: With what.
    """

    number: int
    name: str
    arguments: tuple[Any, ...] = ()


class Done(NamedTuple):
    """The result of a request, in a frame of kind RESULT.

    Attributes:
        number: Its number.
        value: What it returns.
    """

    number: int
    value: Any


class Failed(NamedTuple):
    """The error of a request.

    Attributes:
        number: Its number.
        error: The packed exception.
    """

    number: int
    error: bytes


class Answered(NamedTuple):
    """The answer of one side of a shadow.

    Attributes:
        is_error: Whether the body of the content is a packed exception.
        content: The answer, with the class of the task; its blocks are lent.
        seconds: What the call of the handler took.
    """

    is_error: bool
    content: Encoded
    seconds: float


class AnsweredPair(NamedTuple):
    """The answers of both sides of a shadow: the result of a request for them.

    Attributes:
        number: The number of the request.
        baseline: The answer of the handler that serves.
        candidate: The other one.
    """

    number: int
    baseline: Answered
    candidate: Answered


class Reported(NamedTuple):
    """What both sides of a trial have done so far.

    Attributes:
        number: The number of the request that has begun the trial.
        report: The report.
    """

    number: int
    report: TrialReport


class Requests:
    """Sends requests to the pipeline process, and waits for their results.

    Args:
        flow: Name of the flow.
        read_pair: Reads the answers of a shadow, and returns the blocks that were lent with them.

    Attributes:
        on_report: Called with the number of the request that has begun a trial, and with a report.
    """

    def __init__(self, flow: str, read_pair: Callable[[AnsweredPair], Any]) -> None:
        self.on_report: Callable[[int, TrialReport], None] = lambda number, report: None
        self._flow = flow
        self._read_pair = read_pair
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._send: Send | None = None

    def begin(self, send: Send) -> None:
        """Send over a connection that has begun."""
        self._send = send

    def end(self, reason: str) -> None:
        """End all requests with `NotRunningError`: the connection has ended.

        Args:
            reason: Why.
        """
        self._send = None
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done() and not future.get_loop().is_closed():
                future.set_exception(NotRunningError(f"a request to the pipeline of flow {self._flow} ended: {reason}"))

    def next_number(self) -> int:
        """Return a number for `call`."""
        return next(self._numbers)

    async def call(self, name: str, *arguments: Any, number: int = 0) -> Any:
        """Have the pipeline process do something, in the event loop of the connection.

        Args:
            name: What.
            *arguments: With what.
            number: From `next_number`, if it has to be known before the result is there.

        Returns:
            The result.

        Raises:
            NotRunningError: There is no pipeline process, or it has ended meanwhile.
            Exception: The error of it.

        A cancellation withdraws it.
        """
        if self._send is None:
            raise NotRunningError(f"flow {self._flow} has no pipeline process now")
        number = number or self.next_number()
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._send(Kind.CALL, pack_message(Request(number, name, arguments)))
        try:
            return await future
        except asyncio.CancelledError:
            if self._waiting.get(number) is future and self._send is not None:
                self._send(Kind.CALL, pack_message(Request(number, CANCEL)))
            raise
        finally:
            self._waiting.pop(number, None)
            del future  # its exception refers to this frame

    def on_result(self, payload: bytes) -> None:
        """Handle the payload of a frame of kind RESULT.

        Raises:
            ProtocolError: It makes no sense.
        """
        message: Any = unpack_message(payload, Done, Failed, AnsweredPair, Reported)
        if isinstance(message, Reported):
            self.on_report(message.number, message.report)
            return
        # All is read before the request is removed, which nothing would end otherwise. A pair is read also if it is not
        # awaited any more: its blocks were lent.
        error = decode_logged(message.error)[0] if isinstance(message, Failed) else None
        result = self._read_pair(message) if isinstance(message, AnsweredPair) else getattr(message, "value", None)
        future = self._waiting.pop(message.number, None)
        if future is None or future.done() or future.get_loop().is_closed():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)
