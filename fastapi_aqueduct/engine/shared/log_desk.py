"""Sends what user code in workers logs to the API process whose task it is about."""

from __future__ import annotations

from typing import Protocol

from ...logger import log
from ..wire.frames import Kind, ProtocolError
from ..wire.log_levels import ROOT, LogLevels
from ..wire.log_records import split_record
from ..workers.worker_logs import Source, Step, WorkerLogs
from .messages import check_fields
from .numbers import split
from .remote_logs import pack_source


class Reader(Protocol):
    """An API process that is connected.

    Attributes:
        number: Its number.
    """

    @property
    def number(self) -> int:
        """As above."""

    def post(self, kind: Kind, payload: bytes) -> None:
        """Send it a frame."""

    def is_swamped(self) -> bool:
        """Tell whether so much waits for it that log records should be dropped."""


class LogDesk:
    """Sends each record to one API process, and has workers log what any of them wants.

    A record of a call for a batch goes to the process of its first task that is still there. One that belongs to no
    task goes to the process that has been there for longest. While there is none, records are handled in this process.

    Args:
        logs: Receives the records of workers; None if they are not forwarded.
    """

    def __init__(self, logs: WorkerLogs | None) -> None:
        self._guests: dict[int, Reader] = {}  # in the order of their arrival
        self._levels: dict[int, LogLevels] = {}
        self._lowest = LogLevels.read().without(log.name)
        if logs is not None:
            logs.forward = self._forward

    def join(self, guest: Reader) -> None:
        """Serve one more API process."""
        self._guests[guest.number] = guest

    def leave(self, number: int) -> None:
        """Send nothing any more to an API process that is gone.

        Args:
            number: Its number.
        """
        self._guests.pop(number, None)
        self._levels.pop(number, None)
        self._apply()

    def on_levels(self, number: int, payload: bytes) -> None:
        """Handle the levels of the loggers of an API process.

        Raises:
            ProtocolError: They are malformed.
        """
        try:
            levels = LogLevels.unpack(payload)
        except Exception as exc:
            raise ProtocolError(f"malformed levels: {exc}") from exc
        check_fields(levels)
        if ROOT not in levels.levels:
            raise ProtocolError("levels without that of the root logger")
        self._levels[number] = levels.without(log.name)  # those of this process's own messages are its own
        self._apply()

    def _apply(self) -> None:
        """Give the loggers of this process the levels: workers get those, and each API process filters in the end."""
        if self._levels:
            before, self._lowest = self._lowest, LogLevels.lowest(self._levels.values())
            self._lowest.apply_changes(before)

    def _forward(self, step: Step, worker: Source, payload: bytes) -> bool:
        numbers, _ = split_record(payload)
        guests = [self._guests.get(split(number)[0]) for number in numbers]
        guest = next(filter(None, guests), None) or next(iter(self._guests.values()), None)
        if guest is None:
            return False
        if guest.is_swamped():
            step.log_records_dropped += 1
        else:
            guest.post(Kind.LOG, pack_source(worker, payload))
        return True
