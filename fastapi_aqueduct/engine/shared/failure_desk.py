"""Sends tasks that have failed to the API processes whose tasks they are: these have the recorder, and the code."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from ..recorder import Failure
from ..scheduling.ticket import Ticket
from ..wire.codec import Encoded
from ..wire.failures import encode_error
from ..wire.frames import Kind
from .messages import pack_message
from .numbers import split
from .request_desk import Requester


class SentFailure(NamedTuple):
    """A task that has failed, on its way to its API process.

    Attributes:
        failure: What has happened; the number of the task is that in the API process.
        error: The packed exception.
        content: The task as it entered the step. Its blocks are lent.
    """

    failure: Failure
    error: bytes
    content: Encoded


class Owner(Requester, Protocol):
    """An API process that is connected, and may want the tasks that have failed."""

    def is_swamped(self) -> bool:
        """Tell whether so much waits for it that nothing more should be sent."""


class FailureDesk:
    """Sends each task that has failed to its API process, if that wants it; see `FailureSink`."""

    def __init__(self) -> None:
        self._guests: dict[int, Owner] = {}

    @property
    def is_open(self) -> bool:
        """Whether any API process has a recorder."""
        return bool(self._guests)

    def join(self, guest: Owner) -> None:
        """Send an API process its tasks that fail from now on."""
        self._guests[guest.number] = guest

    def leave(self, number: int) -> None:
        """Send nothing any more to an API process that is gone.

        Args:
            number: Its number.
        """
        self._guests.pop(number, None)

    def put(self, ticket: Ticket, failure: Failure, exception: BaseException) -> str | None:
        """Send a task, before its answer; see `FailureSink`."""
        number, own = split(ticket.id)
        guest = self._guests.get(number)
        if guest is not None and not guest.is_swamped():
            content = ticket.content._replace(extras=b"")
            guest.lend(content.blocks)
            message = SentFailure(failure._replace(number=own), encode_error(exception), content)
            guest.post(Kind.RECORD, pack_message(message))
        return None
