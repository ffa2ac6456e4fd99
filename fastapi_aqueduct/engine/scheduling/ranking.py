"""A ranking: which of many things has the least value, where values change."""

from __future__ import annotations

import heapq
import itertools
from typing import Any, Generic, TypeVar

STALE = 32
"""Entries that are out of date and may stay in the heap, beside as many as there are things."""

V = TypeVar("V", bound=Any)
T = TypeVar("T")


class Ranking(Generic[V, T]):
    """Things by their values, in a heap: a change, and the search for the least, take logarithmic time.

    The entry of a thing whose value has changed stays in the heap until it is in front, or such entries are many.
    Of equal values the one that was put first is first.
    """

    def __init__(self) -> None:
        self._entries: list[tuple[V, int, T]] = []
        self._valid: dict[T, int] = {}  # the number of the entry of each thing
        self._numbers = itertools.count()

    def __len__(self) -> int:
        """Return the number of things."""
        return len(self._valid)

    def __contains__(self, thing: object) -> bool:
        """Tell whether a thing has a value."""
        return thing in self._valid

    @property
    def first(self) -> T:
        """The thing with the least value. There must be one."""
        return self._first()[2]

    @property
    def least(self) -> V:
        """The least value. There must be one."""
        return self._first()[0]

    def put(self, thing: T, value: V) -> None:
        """Set the value of a thing."""
        number = self._valid[thing] = next(self._numbers)
        heapq.heappush(self._entries, (value, number, thing))
        if len(self._entries) > 2 * len(self._valid) + STALE:
            self._sweep()

    def discard(self, thing: T) -> None:
        """Remove a thing, if it is there."""
        if self._valid.pop(thing, None) is not None and not self._valid:
            self._entries.clear()

    def _first(self) -> tuple[V, int, T]:
        entries, valid = self._entries, self._valid
        while valid.get(entries[0][2]) != entries[0][1]:
            heapq.heappop(entries)
        return entries[0]

    def _sweep(self) -> None:
        """Drop all entries that are out of date."""
        self._entries = [entry for entry in self._entries if self._valid.get(entry[2]) == entry[1]]
        heapq.heapify(self._entries)
