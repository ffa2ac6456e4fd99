"""The statistics of a pipeline on their way to its API processes, and what these count themselves on the way back."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..statistics import FlowStatistics
from ..wire.frames import ProtocolError
from .messages import pack_message, unpack_message

_NUMBER = struct.Struct("<Q")


@dataclass(frozen=True)
class GuestReport:
    """What an API process counts of a flow itself.

    Attributes:
        uploads: Bodies of requests that are arriving there.
        receiving: Bytes of them.
        leased: Bytes of blocks with views there.
        unsent: Sizes of those of them that the pipeline process does not know.
        refusals: What it has refused since it is connected, by reason.
    """

    uploads: int = 0
    receiving: int = 0
    leased: int = 0
    unsent: Sequence[int] = ()
    refusals: Mapping[str, int] = field(default_factory=dict)

    def pack(self) -> bytes:
        """Return the payload of a frame of kind STATUS to the pipeline process."""
        return pack_message(self)

    @staticmethod
    def unpack(payload: bytes) -> GuestReport:
        """Read what `pack` has returned.

        Raises:
            ProtocolError: It is no report.
        """
        return unpack_message(payload, GuestReport)


@dataclass(frozen=True)
class Status:
    """What an API process gets to know.

    Attributes:
        statistics: Those of the pipeline process, with what API processes have counted that are gone.
        reports: What each API process has reported, by its number; of all that are connected.
    """

    statistics: FlowStatistics
    reports: Mapping[int, GuestReport]

    def pack(self) -> bytes:
        """Return the payload of a frame of kind STATUS, which `address` completes."""
        return pack_message(self)

    @staticmethod
    def unpack(payload: bytes) -> Status:
        """Read what `pack` has returned.

        Raises:
            ProtocolError: It is no status.
        """
        return unpack_message(payload, Status)

    def seen_by(self, number: int, own: GuestReport) -> FlowStatistics:
        """Return the statistics of the flow over all its processes.

        Args:
            number: The number of the API process that asks.
            own: What it counts; its last report may be older.
        """
        reports = [own, *[report for guest, report in self.reports.items() if guest != number]]
        return with_reports(self.statistics, reports)


def with_reports(statistics: FlowStatistics, reports: Iterable[GuestReport]) -> FlowStatistics:
    """Add what API processes have counted.

    Args:
        statistics: The statistics of a flow.
        reports: What they have counted.
    """
    reports = list(reports)
    refusals = Counter(statistics.refusals)
    for report in reports:
        refusals.update(report.refusals)
    arena = statistics.arena
    return replace(
        statistics,
        uploads=statistics.uploads + sum(report.uploads for report in reports),
        arena=replace(
            arena,
            receiving=arena.receiving + sum(report.receiving for report in reports),
            leased=arena.leased + sum(report.leased for report in reports),
            used=arena.used + sum(sum(report.unsent) for report in reports),
            blocks=arena.blocks + sum(len(report.unsent) for report in reports),
        ),
        refusals=dict(refusals),
    )


def address(number: int, status: bytes) -> bytes:
    """Return the payload of a frame of kind STATUS for one API process.

    Args:
        number: Its number.
        status: From `Status.pack`, the same for all.
    """
    return _NUMBER.pack(number) + status


def addressee(payload: bytes) -> tuple[int, bytes]:
    """Return the number of the API process to which a payload of `address` goes, and the packed status.

    Raises:
        ProtocolError: It is cut off.
    """
    if len(payload) < _NUMBER.size:
        raise ProtocolError(f"a status of {len(payload)} bytes is cut off")
    number: int = _NUMBER.unpack_from(payload)[0]
    return number, payload[_NUMBER.size :]
