"""The way of the samples through a flow: which steps each of them visits, and with which fields."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from typing import Any

from ...engine.shape import Shape
from ...engine.wire.packing import pack_value
from ...task import BaseTask
from .prepared import renewed
from .way import Way, names_on, part_of

Visits = Callable[[str, BaseTask], bool]
"""Returns whether a task visits a step."""

Visit = Callable[[str, Mapping[int, BaseTask]], Awaitable[set[int]]]
"""Lets tasks go through a step, which sets their fields. Returns the numbers of those for which there was time."""


class Walk:
    """Lets samples go through the steps of a flow.

    Args:
        samples: The samples.
    """

    def __init__(self, samples: Sequence[BaseTask]) -> None:
        self._tasks = dict(enumerate(map(renewed, samples)))
        self._ways: dict[int, list[Any]] = {number: [] for number in self._tasks}

    @property
    def numbers(self) -> list[int]:
        """The numbers of the samples for which there was time."""
        return list(self._tasks)

    @property
    def ways(self) -> list[Way]:
        """The way of each of these samples, as far as it has come."""
        ways = [self._ways[number] for number in self.numbers]
        return [part_of(way, set(names_on(way))) for way in ways]

    def share(self, name: str) -> float:
        """Return the part of the samples that visit a step."""
        return sum(name in names_on(way) for way in self.ways) / max(1, len(self.ways))

    async def go(self, shape: Shape, visits: Visits, visit: Visit) -> None:
        """Go through a flow.

        Args:
            shape: The shape of the flow.
            visits: As above.
            visit: As above.
        """
        await _Part(visits, visit).go(shape, self._tasks, self._ways)


class _Part:
    """A part of a walk: through the flow, or through a branch of a group."""

    def __init__(self, visits: Visits, visit: Visit) -> None:
        self._visits = visits
        self._visit = visit

    async def go(self, shape: Shape, tasks: dict[int, BaseTask], ways: Mapping[int, list[Any]]) -> None:
        """Go through steps one after the other, and through those of a group side by side.

        Args:
            shape: The steps.
            tasks: The samples, by their numbers; those for which there is no time are removed.
            ways: Get the names of the steps.
        """
        for part in shape:
            if isinstance(part, str):
                visitors = {number: task for number, task in tasks.items() if self._visits(part, task)}
                for number in visitors:
                    ways[number].append(part)
                if visitors:
                    _keep(tasks, (tasks.keys() - visitors.keys()) | await self._visit(part, visitors))
            else:
                await self._go_beside(part, tasks, ways)

    async def _go_beside(
        self, branches: Sequence[Shape], tasks: dict[int, BaseTask], ways: Mapping[int, list[Any]]
    ) -> None:
        before = {number: renewed(task) for number, task in tasks.items()}
        # Noted at once, for an interruption in a branch; those of branches that a sample does not visit stay empty.
        inside: dict[int, list[list[Any]]] = {number: [[] for _ in branches] for number in tasks}
        for number in tasks:
            ways[number].append(inside[number])
        for place, branch in enumerate(branches):
            copies = {number: renewed(before[number]) for number in tasks}
            await self.go(branch, copies, {number: inside[number][place] for number in copies})
            _keep(tasks, copies.keys())
            for number, task in copies.items():
                _merge(tasks[number], before[number], task)


def _keep(tasks: dict[int, BaseTask], numbers: Set[int]) -> None:
    for number in tasks.keys() - numbers:
        del tasks[number]


def _merge(task: BaseTask, before: BaseTask, branch: BaseTask) -> None:
    """Give a task the fields that a branch has set, and take those that it has deleted."""
    old, new = _fields(before), _fields(branch)
    for name in old.keys() - new.keys():
        task.__dict__.pop(name, None)
    for name, value in new.items():
        if name not in old or pack_value(old[name]) != pack_value(value):
            task.__dict__[name] = value


def _fields(task: BaseTask) -> dict[str, Any]:
    return {name: value for name, value in renewed(task).__dict__.items() if name != "task_id"}
