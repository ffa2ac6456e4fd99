"""The shared memory as one process uses it.

Each process allocates only in its own region and reads everywhere, so no lock is shared.

A block belongs to the region it lies in. The API process, which owns the tasks, decides when it is free and tells the
owner of the region, which reuses it. A block with a view in user code is not free.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...exceptions import ArenaFull
from ...task import SharedBytes
from .allocator import Allocator, RegionFull
from .garbage import GarbageCollection
from .layout import Layout, Ref
from .mapping import Lease, Mapping, address_of, is_shared, lease_of
from .status_page import StatusPage

THRESHOLD = 16 * 1024
"""Bytes from which a buffer moves to shared memory; below, a copy through the socket is cheaper than a block."""


class Arena:
    """The shared memory of a flow as one process uses it.

    Args:
        mapping: The memory.
        layout: The division of the memory.
        region: The region that this process allocates in.
        on_view_end: Called with the offset of a block when its last view in this process has ended.

    Attributes:
        status: The status page.
        leases: Number of leases on each block in this process; a block without a lease is not listed.
        is_here: Returns whether the present thread may use it.
    """

    def __init__(self, mapping: Mapping, layout: Layout, region: int, on_view_end: Callable[[int], None]) -> None:
        self.mapping = mapping
        self.layout = layout
        self.status = StatusPage(mapping.writable, layout, region)
        self.allocator = Allocator(layout.start(region), layout.capacity(region))
        self.leases: dict[int, int] = {}
        self.is_here: Callable[[], bool] = lambda: True
        self._on_view_end = on_view_end
        self._garbage = GarbageCollection()

    def allocate(self, size: int) -> Ref:
        """Allocate a block that is filled at once; it has no hold and no view yet.

        Raises:
            ArenaFull: The flow's limit would be exceeded, even after garbage was collected.
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
                self.status.publish_usage(self.allocator.pages.size)
                return Ref(offset, size)
            region.free(offset)
        if size <= self.layout.limit and self.collect_garbage():
            return self.allocate(size)
        raise self.full(size)

    def collect_garbage(self) -> bool:
        """End the views that only reference cycles of the application keep, unless that was useless lately.

        Returns:
            Whether there were any.
        """
        self.collect()
        return bool(self.leases) and self._garbage.run(self._count_leased)

    def place(self, size: int) -> Ref | None:
        """Reserve addresses for a block that is filled little by little; None if no hole is large enough."""
        try:
            return Ref(self.allocator.place(size), size)
        except RegionFull:
            return None

    def fill(self, ref: Ref, size: int) -> bool:
        """Allocate the memory for the beginning of a block from `place`.

        Args:
            ref: The block.
            size: Bytes that will be filled, no fewer than before.

        Returns:
            Whether there is enough memory; else nothing has changed.
        """
        allocator = self.allocator
        start, end = ref.offset, ref.offset + size
        # Nearly always a block is placed where an earlier one was, whose pages hold memory still.
        if allocator.pages.missing(start, end):
            if not self._has_memory(start, end):
                return False
            allocator.pages.add(start, end)
            self.status.publish_usage(allocator.pages.size)
        allocator.fill(start, size)
        return True

    def move(self, source: Ref, target: Ref, start: int, end: int) -> None:
        """Copy a piece of a block to another one, and release its memory in the first.

        During the copy the piece exists twice, and the limit may be exceeded by it: a block that had to wait for memory
        in order to move could wait for itself.

        Args:
            source: The block; what lies before the piece has moved already.
            target: A block from `place`.
            start: Start of the piece.
            end: End of the piece.
        """
        self.allocator.pages.add(target.offset, target.offset + end)
        self.allocator.fill(target.offset, end)
        words = self.mapping.writable
        words[target.offset + start : target.offset + end] = words[source.offset + start : source.offset + end]
        self._release_pages(self.allocator.drain(source.offset, end))

    def grow(self, ref: Ref, size: int) -> Ref | None:
        """Extend a block from `place` where it is; None if the addresses behind it are in use."""
        return ref._replace(size=size) if self.allocator.grow(ref.offset, size) else None

    def finish(self, ref: Ref, size: int) -> Ref:
        """Cut a block from `place` to its first bytes, which are filled."""
        self.allocator.finish(ref.offset, size)
        return ref._replace(size=size)

    def free(self, offset: int) -> None:
        """Free a block of this process's region."""
        self.allocator.free(offset)

    def adopt(self, blocks: dict[int, int]) -> None:
        """Start in a region where an earlier worker left blocks that are in use; all other memory is released."""
        self.allocator.adopt(blocks)
        self.trim()

    def available(self) -> int:
        """Return the bytes that this process could fill now: what no process uses, without what others keep warm."""
        region = self.allocator
        return self.layout.limit - sum(self.status.usages) + region.pages.size - region.used

    def owns(self, offset: int) -> bool:
        """Tell whether a block lies in this process's region."""
        return 0 <= offset - self.allocator.start < self.allocator.capacity

    def write(self, ref: Ref) -> memoryview:
        """Return a writable view of a block of this process. It must not outlive the block; user code gets a lease."""
        return self.mapping.writable[ref.offset : ref.offset + ref.size]

    def lend(self, ref: Ref) -> Lease:
        """Make a lease on a block; it lasts until its last view is gone."""
        offset = ref.offset
        self.leases[offset] = self.leases.get(offset, 0) + 1
        return self.mapping.lend(*ref)

    def collect(self) -> None:
        """Count the leases that have ended since the last call."""
        dropped = self.mapping.dropped
        while dropped:
            offset = dropped.pop()
            count = self.leases[offset] - 1
            if count:
                self.leases[offset] = count
            else:
                del self.leases[offset]
                self._on_view_end(offset)

    def find(self, buffer: Any) -> tuple[Ref, int] | None:
        """Find the block of a view.

        Args:
            buffer: A contiguous `memoryview` or array.

        Returns:
            The block and the position of the buffer in it; None if the buffer lies elsewhere.
        """
        lease = lease_of(buffer)
        if lease is None or lease.mapping is not self.mapping:
            return None
        # Nearly always it is the whole block, and getting the address takes longer than all else here.
        position = 0 if buffer.nbytes == lease.size else self.mapping.position(lease, address_of(buffer))
        return Ref(lease.offset, lease.size, lease.shared), position

    def share(self, value: Any) -> Any:
        """Copy an array, `bytes` or `bytearray` into a block that may be written in place.

        Returns:
            The new value of the task's field: an array that is a view of the block, or `SharedBytes`.
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
        """Tell whether a value is a view of a block, of any flow, that may be written in place."""
        return is_shared(value)

    def reserve(self, size: int) -> memoryview:
        """Allocate a block that every process may write in place and return a view of it."""
        self.collect()
        ref = self.allocate(size)._replace(shared=True)
        return self.mapping.view(self.lend(ref), 0, size)

    def trim(self) -> None:
        """Return the free memory of this process's region to the system."""
        self._release_pages(self.allocator.trim())

    def full(self, size: int) -> ArenaFull:
        """Return the error for an allocation that failed."""
        usage = self.status.usage()
        return ArenaFull(
            f"shared memory is full: {size} bytes are needed, and {usage} of {self.layout.limit} bytes are in use; "
            "raise memory_limit of the flow, or drop references to results and uploads earlier",
            size=size,
        )

    def _count_leased(self) -> int:
        self.collect()
        return len(self.leases)

    def _has_memory(self, start: int, end: int) -> bool:
        """Tell whether a range may be filled; if necessary, release what this process keeps warm."""
        # Each process checks its own growth against the sum of all, without a lock: two that grow in the same
        # instant may together exceed the limit by one block each.
        while missing := self.allocator.pages.missing(start, end):
            excess = self.status.usage() + missing - self.layout.limit
            # Pages of the range itself may be released, so what is missing is counted again.
            if excess <= 0 or not self._release_pages(self.allocator.trim(excess)):
                return excess <= 0
        return True

    def _release_pages(self, ranges: list[tuple[int, int]]) -> int:
        for offset, size in ranges:
            self.mapping.release_pages(offset, size)
        self.status.publish_usage(self.allocator.pages.size)
        return sum(size for _, size in ranges)
