"""The shared memory of a flow, in a process that allocates there and does not dispatch tasks."""

from __future__ import annotations

from collections.abc import Iterable

from .arena import Arena
from .layout import Layout, Ref
from .mapping import Mapping


class Tenant:
    """Allocates in one region, and tracks the blocks that concern the dispatching process too.

    * Published blocks lie in this region and were sent with a task: the dispatcher decides when they are free.
    * Retained blocks lie in any region and have a view here after their task has left: the dispatcher holds them.

    Any other block of this region is free when its last view has ended.

    Args:
        mapping: The shared memory.
        layout: The division of the shared memory.
        region: The number of the region that this process allocates in.
        blocks: Blocks that an earlier owner has published in that region: size by offset.

    Attributes:
        arena: The memory as this process uses it.
        newly_retained: Retained blocks that the dispatcher has not been sent yet.
        released: Blocks that were retained and have no view any more, which the dispatcher has not been sent yet.
    """

    def __init__(self, mapping: Mapping, layout: Layout, region: int, blocks: dict[int, int]) -> None:
        self.arena = Arena(mapping, layout, region, self._on_view_end)
        self.arena.adopt(blocks)
        self.newly_retained: list[int] = []
        self.released: list[int] = []
        self._published = set(blocks)
        self._retained: set[int] = set()

    def publish(self, blocks: Iterable[Ref]) -> None:
        """Leave the blocks of a task that is sent to the dispatcher."""
        for ref in blocks:
            if self.arena.owns(ref.offset):
                self._published.add(ref.offset)

    def release(self, offsets: Iterable[int]) -> None:
        """Free published blocks, which the dispatcher has released."""
        for offset in offsets:
            self._published.discard(offset)
            self.arena.free(offset)

    def note_retained(self, blocks: Iterable[Ref]) -> None:
        """Note which blocks of a task that has been worked on still have a view."""
        for ref in blocks:
            if ref.offset in self.arena.leases and ref.offset not in self._retained:
                self._retained.add(ref.offset)
                self.newly_retained.append(ref.offset)

    def collect_garbage(self) -> bool:
        """End the views that only reference cycles keep, as `Arena.collect_garbage` does, if any block is retained.

        Returns:
            Whether there were any.
        """
        return bool(self._retained) and self.arena.collect_garbage()

    def _on_view_end(self, offset: int) -> None:
        if offset in self._retained:
            self._retained.discard(offset)
            self.released.append(offset)
        elif self.arena.owns(offset) and offset not in self._published:
            self.arena.free(offset)
