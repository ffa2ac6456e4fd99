"""The numbers of tasks of API processes: one names the process, and the number that the task has there.

Workers send the number with what user code logs, also when the task has ended. So it need not be kept whose it was.
"""

from __future__ import annotations

_OWN_BITS = 40
"""Enough for a million tasks in each second of twelve days; a number on the wire has 64 bits."""

MOST = (1 << _OWN_BITS) - 1
"""The largest number of a task in its process."""


def number_of(guest: int, own: int) -> int:
    """Return the number of a task in the pipeline process.

    Args:
        guest: The number of the API process, from 1; no other one gets it again.
        own: The number of the task in that process, from 1.
    """
    return guest << _OWN_BITS | own & MOST


def split(number: int) -> tuple[int, int]:
    """Return the number of the API process, 0 for the pipeline process itself, and that of the task there."""
    return number >> _OWN_BITS, number & MOST
