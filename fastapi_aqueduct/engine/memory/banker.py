"""The rule by which bodies that are arriving get memory, so that all of them can be completed.

Nothing is reserved on the word of a client: a body counts from its first byte on, with what has come of it. So bodies
that arrive together may need more than there is, and if each took what it can get, all might hold a part and wait for
the rest for ever. This is the situation of Dijkstra's banker ("Cooperating sequential processes", 1965), and his
solution is used. A body gets more only if there is an order in which all that have begun can still be completed, each
with what is free and what those before it return. With one kind of resource it is enough to try one order: by what is
missing, the least first. So the body that is nearest to its end always finds as much as it still needs; the others are
not read meanwhile.

**Why all end.** Two things can be short: the share of the memory that arriving bodies may have (`ArrivalCap.size`), and
memory itself, which tasks hold as well. The share is returned when a body is complete or its client gives up, so by
the order above it never runs out for good. Memory is returned when tasks end. They do not wait for bodies for long:
what a task of this process waits for is left free by all but the nearest, and a worker gives up after a second. A block
that must move needs no memory for it (`Arena.move`). What is left is bounded by time: a client that stops sending is
refused by its pace, and one that waits for memory by its timeout.

**Bodies of unknown length** (chunked or compressed) may need anything up to the most that the endpoint accepts. To keep
that free for each would serve them one by one, so what is missing is guessed: as much again as has come. Where that
is too low for several at once they may wait for each other until the timeout of one passes. Bodies of known length are
not affected: while they wait, those of unknown length wait behind them or return what they hold.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from operator import itemgetter
from typing import NamedTuple

from ...exceptions import Overloaded
from ..refusals import Refusals
from .arena import Arena
from .memory_waiters import MemoryWaiters

GUESS = 256 << 10
"""Bytes that a body of unknown length is assumed to miss, at least."""

HEAD_START = 0.5
"""Seconds after its first byte in which a body may have the rest to itself."""

TRUST = 256
"""The most that others leave to a body in that time, as a multiple of what has come."""


class ArrivalCap(NamedTuple):
    """A limit on what may be arriving at the same time.

    Attributes:
        bodies: The most bodies that may have begun and not ended; None: any number.
        size: The most bytes that these may have together; None: half of what the arena may have. The body that is
            nearest to its end may have more.
    """

    bodies: int | None = None
    size: int | None = None


NO_CAP = ArrivalCap()
"""Any number of bodies, which may have half of the arena."""


class Account:
    """What one body holds and may still need.

    Args:
        left: Bytes that may still come.
        is_exact: Whether exactly that many will come; else no more will.

    Attributes:
        held: Bytes that have come and are kept.
        left: Bytes that may still come.
        in_arena: Whether they go to shared memory.
        number: Position in the order in which bodies began; 0 before the first byte.
        since: When its first byte came, then when that was granted, on the clock of ``time.monotonic``.
    """

    def __init__(self, left: int, is_exact: bool) -> None:
        self.held = 0
        self.left = left
        self.in_arena = False
        self.number = 0
        self.since = 0.0
        self._is_exact = is_exact

    @property
    def missing(self) -> int:
        """Bytes that are still to come, as far as can be known."""
        return self.left if self._is_exact else min(self.left, max(self.held, GUESS))

    def count(self, size: int) -> None:
        """Count bytes that have come; a negative number undoes it."""
        self.held += size
        self.left -= size


class Banker:
    """Decides which of the bodies that have begun may have more memory.

    Args:
        arena: The shared memory.
        waiters: The callers that wait for memory: what they need is left to them.
        refusals: Counts the bodies that are refused.
        head_start: Seconds after its first byte in which a body may have the rest to itself.

    Attributes:
        held: Bytes that all bodies have.
        head_start: As given.
    """

    def __init__(self, arena: Arena, waiters: MemoryWaiters, refusals: Refusals, head_start: float) -> None:
        self.held = 0
        self.head_start = head_start
        self._arena = arena
        self._waiters = waiters
        self._refusals = refusals
        self._half = arena.layout.limit // 2
        self._begun: set[Account] = set()
        self._last_number = 0
        self._most_left = 0

    def __len__(self) -> int:
        return len(self._begun)

    def check_count(self, cap: ArrivalCap) -> None:
        """Refuse one more body.

        Raises:
            Overloaded: Too many bodies are arriving.
        """
        if cap.bodies is not None and len(self._begun) >= cap.bodies:
            message = f"{len(self._begun)} uploads are arriving, and no more than {cap.bodies} may at once"
            raise self._refusals.count(Overloaded(message))

    def begin(self, account: Account, cap: ArrivalCap) -> None:
        """Begin a body with its first byte.

        Raises:
            Overloaded: Too many bodies are arriving.
        """
        self.check_count(cap)
        self._last_number += 1
        account.number = self._last_number
        account.since = time.monotonic()
        self._begun.add(account)
        self._most_left = max(self._most_left, account.left)

    def end(self, account: Account) -> bool:
        """Take what a body holds back; tell whether it had begun."""
        if account not in self._begun:
            return False
        self._begun.remove(account)
        self.held -= account.held
        if not self._begun:
            self._most_left = 0
        return True

    def grant(self, account: Account, size: int, cap: ArrivalCap, claim: Callable[[], bool]) -> bool:
        """Count bytes of a body, if all that have begun can still be completed.

        Args:
            account: The body.
            size: Bytes that have come.
            cap: The limit on what may be arriving.
            claim: Allocates the memory; returns whether it was there.

        Returns:
            Whether the bytes were counted; else nothing has changed.
        """
        # Runs for every piece of a body: as few calls as possible.
        free = (self._half if cap.size is None else cap.size) - self.held - size
        if account.in_arena:
            memory = self._arena.available() - self._waiters.wanted - size
            if memory < free:
                free = memory
        if not account.held and not self._may_begin(account, size, free):
            return False
        # Cheap, and nearly always enough: whichever of them is completed first, there is enough for it.
        if free < self._most_left and not self._is_safe(account, size, cap):
            return False
        if not claim():
            return False
        if not account.held:
            account.since = time.monotonic()
        self.held += size
        account.held += size
        account.left -= size
        return True

    def is_short(self, account: Account, cap: ArrivalCap) -> bool:
        """Tell whether a body lacks memory rather than its share of it."""
        return account.in_arena and self._memory() < self._share(cap) - self.held

    def refusal(self, account: Account, size: int, cap: ArrivalCap) -> Overloaded:
        """Return the error for bytes of a body that were not granted in time."""
        if account.in_arena and self._memory() < size:
            return self._arena.full(size)
        return Overloaded(
            f"uploads that are still arriving have {self.held} bytes, and no more than {self._share(cap)} may be taken "
            "by them: raise max_pending_bytes, or memory_limit of the flow"
        )

    def _may_begin(self, account: Account, size: int, free: int) -> bool:
        """Tell whether a body delays none that has just begun, or has waited long enough for them."""
        if len(self._begun) * self._most_left <= free:
            return True
        earliest = time.monotonic() - self.head_start
        if account.since <= earliest:
            return True
        recent = [other for other in self._begun if other.held and other.since > earliest]
        expected = sum(min(other.missing, TRUST * other.held) for other in recent)
        # A body that cannot have all at once in any case waits no longer than one that takes half.
        return not recent or expected + min(account.missing - size, TRUST * size, free // 2) <= free

    def _count(self, account: Account, size: int) -> None:
        self.held += size
        account.count(size)

    def _is_safe(self, account: Account, size: int, cap: ArrivalCap) -> bool:
        """Tell whether all that have begun can be completed when one has got `size` more bytes."""
        missing = {other: other.missing for other in self._begun}
        is_nearest = missing[account] <= min(missing.values())
        # The share is for those that go on; the one that is to be completed next may have all of itself beside it.
        largest = max(other.held + rest for other, rest in missing.items())
        end = min(self._share(cap) + largest, self._arena.layout.limit) - self.held - size
        if is_nearest:
            return end >= 0 and (not account.in_arena or size <= self._arena.available())
        if self.held + size > self._share(cap):
            return False
        self._count(account, size)
        missing[account] = account.missing
        try:
            return self._leaves_memory(account, size, missing) and _can_all_end(missing, end)
        finally:
            self._count(account, -size)

    def _leaves_memory(self, account: Account, size: int, missing: dict[Account, int]) -> bool:
        nearest = min((rest for other, rest in missing.items() if other.in_arena), default=0)
        return not account.in_arena or self._memory() - size >= nearest

    def _share(self, cap: ArrivalCap) -> int:
        return self._half if cap.size is None else cap.size

    def _memory(self) -> int:
        return self._arena.available() - self._waiters.wanted


def _can_all_end(missing: dict[Account, int], left: int) -> bool:
    for account, rest in sorted(missing.items(), key=itemgetter(1)):
        if rest > left:
            return False
        left += account.held
    return True
