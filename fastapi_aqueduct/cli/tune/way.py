"""The way of a task through a flow: the steps that it visits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

Way = Sequence["str | Sequence[Way]"]
"""The steps that a task visits, by name; those of the branches of a group are sequences in a sequence."""


def names_on(way: Way) -> list[str]:
    """Return the steps on a way, also those of its branches."""
    found: list[str] = []
    for part in way:
        found += [part] if isinstance(part, str) else [name for branch in part for name in names_on(branch)]
    return found


def part_of(way: Way, names: Set[str]) -> Way:
    """Return a way without some of its steps, and without the branches that have none then.

    Args:
        way: The way.
        names: The steps that it keeps.
    """
    found: list[Any] = []
    for part in way:
        if isinstance(part, str):
            found += [part] if part in names else []
        elif branches := [branch for branch in (part_of(each, names) for each in part) if branch]:
            found.append(branches)
    return found


def longest(way: Way, times: Mapping[str, float]) -> float:
    """Return the seconds of a way: of branches, those of the slowest.

    Args:
        way: The way.
        times: Seconds in each step.
    """
    return sum(
        times[part] if isinstance(part, str) else max(longest(branch, times) for branch in part) for part in way
    )
