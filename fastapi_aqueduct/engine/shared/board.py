"""The board: a small piece of shared memory that the pipeline process writes and each API process reads.

It has what decides whether a task that arrives now has a chance. An endpoint asks for that before it reads the body of
a request, and cannot wait for a call.

    version │ checksum │ heartbeat │ in flight │ content: written at, expected time, waiting by level, steps, tenants

The version is odd while the content changes; a reader whose copy was taken meanwhile takes another one. Python has no
memory barriers, so the checksum finds what a processor has reordered. Heartbeat and in flight are words of their own,
which change more often.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
from collections.abc import Mapping
from itertools import islice
from types import MappingProxyType
from typing import NamedTuple

from ..memory.mapping import create_memory
from ..wire.frames import ProtocolError

VERSION, CHECKSUM, HEARTBEAT, IN_FLIGHT = range(4)
"""The words at the beginning of the board."""

MOST_TENANTS = 32
"""Tenants on the board: those with the most tasks. Only few can have a share of the queue each."""

_WORD = 8
_START = 64

ABSENT, WAS_ASLEEP, IS_ASLEEP = 1, 2, 4
"""Flags of a step: it has no ready worker; it is asleep, or was and has no ready worker yet; it is asleep."""


class StepOutlook(NamedTuple):
    """What a task has to expect of a step.

    Attributes:
        wait: Seconds until a worker should be ready, from when the board was written; 0 while one is.
        flags: See `ABSENT`.
    """

    wait: float
    flags: int


class TenantOutlook(NamedTuple):
    """What a task has to expect of a tenant at a level of priority.

    Attributes:
        digest: See `digest_of`; 0 for a tenant without tasks.
        waiting: Tasks of the tenant that wait at the level.
        expected_time: Seconds until the answer to another one, as expected.
    """

    digest: int
    waiting: int
    expected_time: float


class Outlook(NamedTuple):
    """What a task has to expect that arrives now.

    Attributes:
        written_at: When this was so, on the clock of ``time.monotonic``, which is the machine's.
        expected_time: Seconds until the answer, as expected.
        waiting: Tasks that wait for the first step, by level of priority; of a group, for the one with the most.
        steps: The steps.
        newcomers: The expected time of a tenant without tasks, by level; empty if no tenants share the flow.
        tenants: The tenants that have the most tasks at a level, by digest.
    """

    written_at: float
    expected_time: float
    waiting: tuple[int, ...]
    steps: tuple[StepOutlook, ...]
    newcomers: tuple[float, ...] = ()
    tenants: Mapping[int, TenantOutlook] = MappingProxyType({})


def digest_of(level: int, tenant: bytes) -> int:
    """Return what stands for a tenant at a level of priority on a board: a name may be long, or a secret."""
    return int.from_bytes(hashlib.blake2b(tenant, digest_size=8, salt=level.to_bytes(16, "little")).digest(), "little")


class BoardFormat:
    """Where everything is on a board.

    Args:
        steps: Number of steps of the flow.
        levels: Number of priority levels.
        is_fair: Whether tenants share it.

    Attributes:
        size: Bytes of the content.
    """

    def __init__(self, steps: int, levels: int, is_fair: bool = False) -> None:
        self._levels = levels
        self._steps = steps
        self._newcomers = levels if is_fair else 0
        self._tenants = MOST_TENANTS if is_fair else 0
        self._content = struct.Struct(
            f"<dd{levels}Q" + "dQ" * steps + f"{self._newcomers}d" + "QQd" * self._tenants
        )
        self.size = self._content.size

    @property
    def memory(self) -> int:
        """Bytes of a whole board."""
        return -(-(_START + self.size) // mmap.PAGESIZE) * mmap.PAGESIZE

    def pack(self, outlook: Outlook) -> bytes:
        """Return the content of a board."""
        flat = [value for step in outlook.steps for value in step]
        tenants = [value for tenant in outlook.tenants.values() for value in tenant]
        tenants += _NO_TENANT * (self._tenants - len(outlook.tenants))
        times = outlook.written_at, outlook.expected_time
        return self._content.pack(*times, *outlook.waiting, *flat, *outlook.newcomers, *tenants)

    def unpack(self, content: bytes) -> Outlook:
        """Read the content of a board."""
        values = iter(self._content.unpack(content))
        written_at, expected_time = next(values), next(values)
        waiting = tuple(islice(values, self._levels))
        steps = tuple([StepOutlook(next(values), next(values)) for _ in range(self._steps)])
        newcomers = tuple(islice(values, self._newcomers))
        tenants = [TenantOutlook(next(values), next(values), next(values)) for _ in range(self._tenants)]
        by_digest = {tenant.digest: tenant for tenant in tenants}
        return Outlook(written_at, expected_time, waiting, steps, newcomers, by_digest)


_NO_TENANT: list[int | float] = [0, 0, 0.0]


def create_board(flow: str, layout: BoardFormat) -> int:
    """Create the memory of a board.

    Args:
        flow: Name of the flow.
        layout: Where everything is.

    Returns:
        Its descriptor, which the caller closes.

    Raises:
        OSError: No memory or no descriptor is left.
    """
    return create_memory(f"{flow}-board", layout.memory)


class Board:
    """The memory of a board as one process maps it.

    Args:
        fd: Its descriptor, which may be closed afterwards.
        layout: Where everything is.
        is_writable: Whether this process writes it.

    Attributes:
        words: The words at the beginning.
        heartbeat: One of them, as a time.
        content: What follows.

    Raises:
        ProtocolError: The memory is smaller than such a board.
        OSError: It cannot be mapped.
    """

    def __init__(self, fd: int, layout: BoardFormat, is_writable: bool = False) -> None:
        if os.fstat(fd).st_size < layout.memory:
            raise ProtocolError(f"a board of {os.fstat(fd).st_size} bytes is smaller than {layout.memory} bytes")
        access = mmap.PROT_READ | (mmap.PROT_WRITE if is_writable else 0)
        self._memory = mmap.mmap(fd, layout.memory, prot=access)
        self._whole = memoryview(self._memory)
        self.words = self._whole[:_START].cast("Q")
        self.heartbeat = self._whole[HEARTBEAT * _WORD : (HEARTBEAT + 1) * _WORD].cast("d")
        self.content = self._whole[_START : _START + layout.size]

    def close(self) -> None:
        """Unmap it."""
        for view in (self.words, self.heartbeat, self.content, self._whole):
            view.release()
        self._memory.close()
