"""How many regions the shared memory of a flow has: the number cannot change while the flow runs.

A region costs addresses, 24 bytes on the status page, a hundred bytes of the ledger, and 10 ns whenever a process looks
how much memory all of them use. It costs no memory.
"""

from __future__ import annotations

import mmap
import resource
from collections.abc import Sequence

from .layout import Layout

REPLACEMENT = 1
"""Regions of a step for a replacement: a worn worker and its replacement exist together."""

CANARY = 1
"""Regions of a step for a worker that tries another handler beside those that serve."""

GUESTS = 8
"""Regions for API processes that share a pipeline, at least: the usual four, and as many again while a rolling restart
has the old and the new ones running."""


def most_guests(cores: int) -> int:
    """Count the API processes that can share a pipeline: two for each core, while a rolling restart doubles them.

    Args:
        cores: Number of cores.
    """
    return max(GUESTS, 2 * cores + 2)


def fewest_regions(nprocs: Sequence[int]) -> int:
    """Count the regions that a flow needs as it is started: the API process, the workers and their replacements.

    Args:
        nprocs: The most workers of each step.
    """
    return 1 + sum(workers + REPLACEMENT for workers in nprocs)


def regions_needed(nprocs: Sequence[int], cores: int) -> int:
    """Count the regions that a flow may need while it runs.

    The most workers that a step can sensibly get by hand is one for each core, unless it is declared with more.

    Args:
        nprocs: The most workers of each step.
        cores: Number of cores.
    """
    return 1 + sum(max(workers, cores) + REPLACEMENT + CANARY for workers in nprocs)


def divide_regions(layout: Layout, nprocs: Sequence[int], cores: int) -> list[range]:
    """Deal the regions behind that of the API process to the steps, as many to each as `make_layout` has counted.

    Args:
        layout: The division of the shared memory.
        nprocs: The most workers of each step.
        cores: Number of cores.
    """
    is_scarce = layout.regions - layout.guests == fewest_regions(nprocs)
    regions, first = [], 1
    for workers in nprocs:
        count = workers + REPLACEMENT if is_scarce else max(workers, cores) + REPLACEMENT + CANARY
        regions.append(range(first, first + count))
        first += count
    return regions


def make_layout(nprocs: Sequence[int], cores: int, limit: int, guests: int = 0) -> Layout:
    """Divide the shared memory into as many regions as may be needed, or as are needed at once if addresses are scarce.

    Before that, other API processes get less address space: a body of unknown length may have to wait there.

    Args:
        nprocs: The most workers of each step.
        cores: Number of cores.
        limit: The most bytes that all processes together may use.
        guests: Number of other API processes that may share the flow.
    """
    regions = regions_needed(nprocs, cores) + guests
    for layout in Layout(regions, limit, guests), Layout(regions, limit, guests, 1):
        if _are_addresses_plentiful(layout):
            return layout
    return Layout(fewest_regions(nprocs) + guests, limit, guests, 1)


def _are_addresses_plentiful(layout: Layout) -> bool:
    """Tell whether a layout leaves half of the address space to others, and no limit may forbid it.

    x86-64 has 128 TiB, of which 64 workers at a limit of 256 GiB with two mappings each would take a third, two such
    steps more than half; some ARM systems have 512 GiB in all.
    """
    for limit in (resource.RLIMIT_AS, resource.RLIMIT_FSIZE):
        if resource.getrlimit(limit)[0] != resource.RLIM_INFINITY:
            return False
    try:
        # Each process has two mappings; the other half is the margin. Nothing can be written here, so that the system
        # counts no memory for it.
        mmap.mmap(-1, 4 * layout.size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ).close()
    except (OSError, OverflowError):
        return False
    return True
