"""Where everything lies in the shared memory.

one file      | status page | region of the API process | region of worker 1 | ... | region of guest 1 | ...
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from .mapping import PAGE

STATUS_SIZE = 32
"""Bytes of the status of one region's owner; see `StatusPage`."""

SERVER_SPACE = 8
"""Address space of an API process's region, as a multiple of the memory limit. A body of unknown length reserves the
addresses of all that it may have, so that its block need not move; see `BlockWriter`. Within the limit itself a block
of a few bytes that is held in the middle would leave no place for a body that the limit allows."""


class Ref(NamedTuple):
    """A reference to a block, as it travels between processes.

    Attributes:
        offset: Start of the block in the shared memory.
        size: Bytes in use.
        shared: Whether user code may write to the block in place.
    """

    offset: int
    size: int
    shared: bool = False


@dataclass(frozen=True)
class Layout:
    """The division of the shared memory into regions.

    Attributes:
        regions: Number of regions; the first is the API process's.
        limit: The most bytes that all processes together may use.
        guests: Number of regions of other API processes; they are the last ones.
        guest_space: Address space of each of them, as a multiple of the limit.
    """

    regions: int
    limit: int
    guests: int = 0
    guest_space: int = SERVER_SPACE

    @property
    def guest_regions(self) -> range:
        """The regions of other API processes."""
        return range(self._first_guest, self.regions)

    @cached_property
    def status_size(self) -> int:
        """Bytes of the pages that hold the status of each region's owner."""
        return -(-self.regions * STATUS_SIZE // PAGE) * PAGE

    @cached_property
    def region_size(self) -> int:
        """Bytes of address space of a worker's region. Each can hold the whole limit: the file is sparse."""
        return -(-self.limit // PAGE) * PAGE

    @cached_property
    def size(self) -> int:
        """Bytes of address space of the whole file."""
        return self.start(self.regions)

    def start(self, region: int) -> int:
        """Return the offset at which a region starts."""
        if not region:
            return self.status_size
        if region < self._first_guest:
            return self._workers + (region - 1) * self.region_size
        return self._guests + (region - self._first_guest) * self._guest_size

    def capacity(self, region: int) -> int:
        """Return the bytes of address space of a region."""
        if not region:
            return SERVER_SPACE * self.region_size
        return self.region_size if region < self._first_guest else self._guest_size

    def region_of(self, offset: int) -> int:
        """Return the region that an offset lies in."""
        if offset < self._workers:
            return 0
        if offset < self._guests:
            return 1 + (offset - self._workers) // self.region_size
        return self._first_guest + (offset - self._guests) // self._guest_size

    def has_block(self, offset: int, size: int = 1) -> bool:
        """Tell whether a block can exist: `size` bytes from `offset` on lie in one region."""
        region = self.region_of(offset)
        return 0 <= region < self.regions and self.region_of(offset + max(size, 1) - 1) == region

    @cached_property
    def _guest_size(self) -> int:
        return self.guest_space * self.region_size

    @cached_property
    def _workers(self) -> int:
        return self.status_size + SERVER_SPACE * self.region_size

    @cached_property
    def _first_guest(self) -> int:
        return self.regions - self.guests

    @cached_property
    def _guests(self) -> int:
        return self._workers + (self._first_guest - 1) * self.region_size
