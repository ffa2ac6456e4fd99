"""Hands out shared memory and knows who still looks at it.

    one file      | status page | region of the API process | region of worker 1 | region of worker 2 | ...
    each process    allocates only in its own region and reads everywhere, so no lock is shared by anybody

A block belongs to the region it lies in. The API process decides when it is free (it owns the tasks), tells the
owner of the region, and the owner reuses it. A block that user code still looks at is not free.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from ...exceptions import ArenaFull
from ...task import SharedBytes
from .allocator import Allocator, RegionFull
from .garbage import GarbageCollection
from .mapping import PAGE, Lease, Mapping, address_of

STATUS_SIZE = 24
"""Bytes of one owner's status: what it uses, which task it works on, and since when. Each word is written by its owner
alone and is aligned, so a reader sees the old value or the new one."""

THRESHOLD = 16 * 1024
"""Bytes from which a buffer moves to shared memory; below, a copy through the socket is cheaper than a block."""

SERVER_SPACE = 8
"""How many times the limit the API process's region has as addresses. A body of which little has come so far keeps the
addresses for all that is announced, so that it need not move; see `engine.intake`."""

_WORD = struct.Struct("Q")
_TIME = struct.Struct("d")
_CALL = struct.Struct("Qd")


class Ref(NamedTuple):
    """Names a block on its way between processes.

    Attributes:
        offset: Where it starts in the arena.
        size: Bytes that are in use.
        shared: Whether user code may write to it in place.
    """

    offset: int
    size: int
    shared: bool = False


@dataclass(frozen=True)
class Layout:
    """How the arena is divided.

    Attributes:
        regions: Number of regions; the first is the API process's.
        limit: The most bytes that all processes together may keep in use.
    """

    regions: int
    limit: int

    @cached_property
    def status_size(self) -> int:
        """Bytes of the pages that hold the status of each region's owner."""
        return -(-self.regions * STATUS_SIZE // PAGE) * PAGE

    @cached_property
    def region_size(self) -> int:
        """Bytes of address space of a worker's region. Each could hold the whole limit: the file is sparse."""
        return -(-self.limit // PAGE) * PAGE

    @cached_property
    def size(self) -> int:
        """Bytes of address space of the whole arena."""
        return self.start(self.regions)

    def start(self, region: int) -> int:
        """Tell where a region starts."""
        return self._workers + (region - 1) * self.region_size if region else self.status_size

    def capacity(self, region: int) -> int:
        """Tell how many bytes of address space a region has."""
        return self.region_size if region else SERVER_SPACE * self.region_size

    def region_of(self, offset: int) -> int:
        """Tell in which region a block lies."""
        return 0 if offset < self._workers else 1 + (offset - self._workers) // self.region_size

    @cached_property
    def _workers(self) -> int:
        return self.status_size + SERVER_SPACE * self.region_size


class Arena:
    """The shared memory of a flow as one process uses it.

    Args:
        mapping: The memory.
        layout: How it is divided.
        region: The number of the region this process allocates in.
        on_idle: Called with the offset of a block when its last hold in this process has ended.

    Attributes:
        holds: How many reasons there are in this process to keep a block: leases, and in the API process also
            tasks and workers. A block without a hold is not listed.
        leases: How many leases there are on a block in this process; each is one of its holds.
        is_here: Tells whether the present thread may use it.
    """

    def __init__(self, mapping: Mapping, layout: Layout, region: int, on_idle: Callable[[int], None]) -> None:
        self.mapping = mapping
        self.layout = layout
        self.number = region
        self.allocator = Allocator(layout.start(region), layout.capacity(region))
        self.holds: dict[int, int] = {}
        self.leases: dict[int, int] = {}
        self.is_here: Callable[[], bool] = lambda: True
        self._on_idle = on_idle
        self._garbage = GarbageCollection()
        self._status = region * STATUS_SIZE
        words = mapping.writable[: layout.regions * STATUS_SIZE].cast("Q")
        self._usages = words[:: STATUS_SIZE // _WORD.size]
        self._call = self._status + _WORD.size

    def allocate(self, size: int) -> Ref:
        """Take a block of this process's region that is filled at once; nobody holds it yet.

        Raises:
            ArenaFull: The flow's limit would be exceeded, also without the blocks that cycles of the application held.
        """
        region = self.allocator
        try:
            offset = region.allocate(max(size, 1))
        except RegionFull:
            offset = -1
        if offset >= 0:
            end = offset + size
            if not region.pages.missing(offset, end):
                return Ref(offset, size)
            if self._has_memory(offset, end):
                region.pages.add(offset, end)
                self._publish_usage()
                return Ref(offset, size)
            region.free(offset)
        if size <= self.layout.limit and self.collect_garbage():
            return self.allocate(size)
        raise self.full(size)

    def collect_garbage(self) -> bool:
        """Free the blocks that only cycles of the application hold in this process, unless that was useless lately.

        Returns:
            Whether there were any.
        """
        self.collect()
        return bool(self.leases) and self._garbage.run(self._count_holds)

    def place(self, size: int) -> Ref | None:
        """Take addresses for a block that is filled little by little; None when no hole is large enough."""
        try:
            return Ref(self.allocator.place(size), size)
        except RegionFull:
            return None

    def fill(self, ref: Ref, size: int) -> bool:
        """Take the memory for the beginning of a block that `place` has made.

        Args:
            ref: The block.
            size: Bytes that will be filled, no fewer than before.

        Returns:
            Whether there is so much; else nothing has changed.
        """
        if not self._has_memory(ref.offset, ref.offset + size):
            return False
        self.allocator.fill(ref.offset, size)
        self._publish_usage()
        return True

    def move(self, source: Ref, target: Ref, start: int, end: int) -> None:
        """Copy a piece of a block to another one, and give its memory back where it was.

        For the time of the copy the piece is there twice, and the limit may be exceeded by it: a block that had to wait
        for memory in order to move could wait for itself.

        Args:
            source: The block; what lies before the piece has moved already.
            target: A block that `place` has made.
            start: Where the piece begins.
            end: Where it ends.
        """
        self.allocator.fill(target.offset, end)
        words = self.mapping.writable
        words[target.offset + start : target.offset + end] = words[source.offset + start : source.offset + end]
        self._give_back(self.allocator.drain(source.offset, end))

    def grow(self, ref: Ref, size: int) -> Ref | None:
        """Give a block that `place` has made more addresses where it is; None when those behind it are taken."""
        return ref._replace(size=size) if self.allocator.grow(ref.offset, size) else None

    def finish(self, ref: Ref, size: int) -> Ref:
        """Keep only the first bytes of a block that `place` has made, which are filled."""
        self.allocator.finish(ref.offset, size)
        return ref._replace(size=size)

    def free(self, offset: int) -> None:
        """Take a block of this process's region back for reuse."""
        self.allocator.free(offset)

    def adopt(self, blocks: dict[int, int]) -> None:
        """Begin in a region where an earlier worker left blocks that are still in use; all else is given back."""
        self.allocator.adopt(blocks)
        self.trim()

    def available(self) -> int:
        """Return the bytes that this process could fill now: what no process uses, but for what others keep warm."""
        region = self.allocator
        return self.layout.limit - self.usage() + region.pages.size - region.used

    def owns(self, offset: int) -> bool:
        """Tell whether a block lies in this process's region."""
        return 0 <= offset - self.allocator.start < self.allocator.capacity

    def write(self, ref: Ref) -> memoryview:
        """Return a block of this process for filling. The view must not outlive the block; user code gets a lease."""
        return self.mapping.writable[ref.offset : ref.offset + ref.size]

    def lend(self, ref: Ref) -> Lease:
        """Make a lease on a block; it is a hold until the last view is gone."""
        offset = ref.offset
        self.holds[offset] = self.holds.get(offset, 0) + 1
        self.leases[offset] = self.leases.get(offset, 0) + 1
        return self.mapping.lend(*ref)

    def hold(self, offset: int) -> None:
        """Add a reason to keep a block."""
        self.holds[offset] = self.holds.get(offset, 0) + 1

    def drop(self, offset: int) -> None:
        """End a reason to keep a block."""
        count = self.holds[offset] - 1
        if count:
            self.holds[offset] = count
        else:
            del self.holds[offset]
            self._on_idle(offset)

    def collect(self) -> None:
        """Notice the leases that have ended since the last time."""
        dropped = self.mapping.dropped
        while dropped:
            offset = dropped.pop()
            count = self.leases[offset] - 1
            if count:
                self.leases[offset] = count
            else:
                del self.leases[offset]
            self.drop(offset)

    def find(self, buffer: Any) -> tuple[Ref, int] | None:
        """Tell where a buffer lies, if it is a view on a block.

        Args:
            buffer: A contiguous `memoryview` or array.

        Returns:
            The block and the position of the buffer in it, or None when the memory is not the arena's.
        """
        lease = lease_of(buffer)
        if lease is None or lease.mapping is not self.mapping:
            return None
        # Nearly always it is the whole block, and to ask for the address takes longer than all else here.
        position = 0 if buffer.nbytes == lease.size else self.mapping.position(lease, address_of(buffer))
        return Ref(lease.offset, lease.size, lease.shared), position

    def share(self, value: Any) -> Any:
        """Copy an array, `bytes` or `bytearray` into a block that may be written in place.

        Returns:
            What the task's field becomes: an array that is a view on the block, or `SharedBytes`.
        """
        if isinstance(value, bytes | bytearray):
            view = self.reserve(len(value))
            view[:] = value
            return SharedBytes(view.toreadonly(), type(value))
        import numpy as np

        view = self.reserve(max(value.nbytes, 1))
        is_fortran = value.flags.f_contiguous and not value.flags.c_contiguous
        shared: Any = np.ndarray(value.shape, value.dtype, view, order="F" if is_fortran else "C")
        shared[...] = value
        return shared

    def is_shared(self, value: Any) -> bool:
        """Tell whether a value is a view on a block, of any flow, that may be written in place."""
        return is_shared(value)

    def reserve(self, size: int) -> memoryview:
        """Take a block that everybody may write in place and return a view on it."""
        self.collect()
        ref = self.allocate(size)._replace(shared=True)
        return self.mapping.view(self.lend(ref), 0, size)

    def trim(self) -> None:
        """Give the free memory of this process's region back to the system."""
        self._give_back(self.allocator.trim())

    def usage(self) -> int:
        """Sum up the bytes of memory that all processes hold: in blocks, and in pages that they keep warm."""
        return sum(self._usages)

    def note_call(self, task: int, started_at: float) -> None:
        """Write down that a call of the handler begins; readable after the death of this process.

        Args:
            task: Id of the first task of the call.
            started_at: The time on the clock of ``time.monotonic``.
        """
        _CALL.pack_into(self.mapping.writable, self._call, task, started_at)

    def task_of(self, region: int) -> int:
        """Tell with which task the last call in the owner of a region began; 0 when there was none."""
        number: int = _WORD.unpack_from(self.mapping.writable, region * STATUS_SIZE + 8)[0]
        return number

    def call_of(self, region: int) -> float:
        """Tell when the last call in the owner of a region began; 0 when there was none."""
        started_at: float = _TIME.unpack_from(self.mapping.writable, region * STATUS_SIZE + 16)[0]
        return started_at

    def reset_status(self, region: int) -> None:
        """Forget what an earlier owner of a region wrote down about its calls."""
        start = region * STATUS_SIZE + 8
        self.mapping.writable[start : start + STATUS_SIZE - 8] = bytes(STATUS_SIZE - 8)

    def full(self, size: int) -> ArenaFull:
        """Return what is raised when there is no room for so many bytes."""
        return ArenaFull(
            f"no room for {size} bytes in shared memory: {self.usage()} of {self.layout.limit} bytes are in use; "
            "raise memory_limit of the flow, or let go of results and uploads earlier",
            size=size,
        )

    def _count_holds(self) -> int:
        self.collect()
        return len(self.holds)

    def _has_memory(self, start: int, end: int) -> bool:
        """Tell whether a range may be filled, after giving back what this process keeps warm if need be."""
        # Each process checks its own growth against the sum of all, without a lock: two that grow in the same
        # instant may together exceed the limit by one block each.
        while missing := self.allocator.pages.missing(start, end):
            excess = self.usage() + missing - self.layout.limit
            # It may give back pages of the range itself, so it looks again.
            if excess <= 0 or not self._give_back(self.allocator.trim(excess)):
                return excess <= 0
        return True

    def _give_back(self, ranges: list[tuple[int, int]]) -> int:
        for offset, size in ranges:
            self.mapping.give_back(offset, size)
        self._publish_usage()
        return sum(size for _, size in ranges)

    def _publish_usage(self) -> None:
        _WORD.pack_into(self.mapping.writable, self._status, self.allocator.pages.size)


def lease_of(buffer: Any) -> Lease | None:
    """Find the lease behind a memoryview or an array, through any chain of views; None when there is none."""
    owner = buffer
    while not isinstance(owner, Lease):
        if isinstance(owner, memoryview):
            owner = owner.obj
        elif (numpy := sys.modules.get("numpy")) is not None and isinstance(owner, numpy.ndarray):
            owner = owner.base
        else:
            return None
    return owner


def is_shared(buffer: Any) -> bool:
    """Tell whether a buffer is a view on a block, of any flow, that may be written in place."""
    lease = lease_of(buffer)
    return lease is not None and lease.shared
