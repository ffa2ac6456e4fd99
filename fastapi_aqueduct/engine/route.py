"""The route of tasks through the steps of a flow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..task import BaseTask
from .marks import NO_MARKS, Marker, Marks
from .shape import Branch, Group, Shape, compile_shape, indices, is_flat
from .tenants import TenantReader

START = -1
"""The step before the first."""

FINISHED = -1
"""The next step of a task that has no further step to visit; in a branch, none of this branch."""

MOST_SPLITS = 256
"""Ways of beginning groups that a route remembers: nearly all tasks take the same few, but there may be many."""

Condition = Callable[[Any], Any]

Split = tuple[Group, list[tuple[Branch, int]]]
"""A group, and its branches that a task visits with where it begins each, as `Route.next` does."""


class Route:
    """The order of the steps, the conditions under which a task visits each, and what is to be known of it there.

    The dispatcher asks it for new tasks, and the workers for those that they have unpacked.

    Args:
        conditions: ``handle_condition`` of every step, in the order of the steps.
        markers: What reads the marks of the tasks of each step, None for a step without; empty: no step has any.
        tenants: Reads the tenants of the tasks that visit the first step; None where they do not matter.

    Attributes:
        has_marks: Whether `marks` is to be asked.
        first: The steps that a task may visit first if it meets all conditions.
        before: For each step those that a task has left behind when it gets there.
        behind: For each step those that a task may visit later.
        tenants: As given.
    """

    def __init__(
        self,
        conditions: Sequence[Condition],
        markers: Sequence[Marker | None] = (),
        tenants: TenantReader | None = None,
    ) -> None:
        self._conditions = conditions
        self._count = len(conditions)
        self._markers = markers
        self.has_marks = bool(markers) or tenants is not None
        self.tenants = tenants
        steps = range(self._count)
        self.first: Sequence[int] = steps[:1]
        self.before: Sequence[Sequence[int]] = [steps[:index] for index in steps]
        self.behind: Sequence[Sequence[int]] = [steps[index + 1 :] for index in steps]

    def next(self, step: int, task: BaseTask) -> int:
        """Return the step that a task visits next.

        Args:
            step: Index of the step that the task has visited last; `START` when there is none.
            task: The task.

        Returns:
            Index of the first step after it whose condition the task meets; `FINISHED` when there is none. If a group
            comes next, its steps that the task visits first, one in each branch: all their bits, inverted, which is a
            negative number below `FINISHED`.

        Raises:
            Exception: Raised by a condition.
        """
        following = step + 1
        while following < self._count:
            if self._conditions[following](task):
                return following
            following += 1
        return FINISHED

    def marks(self, step: int, task: BaseTask) -> bytes:
        """Return what is to be known of a task while it waits for a step, packed; empty if that is nothing.

        Args:
            step: Where it goes next, from `next`.
            task: The task.

        Raises:
            Exception: As for `marks_at`.
        """
        return self.marks_at(step, task).pack() if self.has_marks and step != FINISHED else b""

    def marks_at(self, step: int, task: BaseTask) -> Marks:
        """Return what is to be known of a task while it waits for a step, in the process that sends it there.

        Args:
            step: Where it goes next, from `next`, and not `FINISHED`.
            task: The task.

        Raises:
            ConfigurationError: A value of the task is none that can be a key, a cost or a tenant.
            Exception: Raised by a function of the user.
        """
        marker = self._markers[step] if self._markers else None
        marks = NO_MARKS if marker is None else marker.read(task)
        return self.tenants.mark(marks, task) if self.tenants is not None and step == 0 else marks

    def leads(self, step: int, following: int) -> bool:
        """Tell whether a task may go from one step to another.

        Args:
            step: Index of the one.
            following: Index of the other.
        """
        return step < following < self._count

    def after(self, place: int | Group) -> Sequence[int | Group]:
        """Return what comes after a step, or after a group, in its sequence.

        Args:
            place: Index of the step, or `START`; or the group.
        """
        assert isinstance(place, int)
        return range(place + 1, self._count)

    def begin(self, sequence: Sequence[int | Group]) -> int:
        """Return where a task begins a sequence if no condition is evaluated; as `next` does."""
        if not sequence:
            return FINISHED
        first = sequence[0]
        if isinstance(first, int):
            return first
        return ~sum([_entries(self.begin(branch.sequence)) for branch in first.branches])

    def onward(self, place: int | Group) -> int:
        """Return where a task goes from a step or a group if no condition is evaluated; as `next` does.

        Args:
            place: Index of the step, or the group.
        """
        return self.begin(self.after(place))

    def split(self, sequence: Sequence[int | Group], following: int) -> Split | None:
        """Return the group that a task visits next.

        Args:
            sequence: What comes next.
            following: From `next` or `begin`.

        Returns:
            The group, and its branches that the task visits with where it begins each, as `next` does; None if the
            sequence has no such group.
        """
        return None

    def may_begin(self, following: int) -> bool:
        """Tell whether a task may begin so.

        Args:
            following: From `next`, perhaps of another process.
        """
        return following != FINISHED and self.may_go(START, following)

    def may_go(self, step: int, following: int) -> bool:
        """Tell whether a task may go on so.

        Args:
            step: Index of the step that it has visited last; `START` when there is none.
            following: From `next`, of another process.
        """
        return (
            following == FINISHED
            or self.leads(step, following)
            or self.split(self.after(step), following) is not None
        )

    def sends_patches(self, step: int) -> bool:
        """Tell whether the workers of a step answer with patches: the step is in a group."""
        return False

    def meets_condition(self, step: int, task: BaseTask) -> bool:
        """Tell whether a task meets the condition of a step.

        Raises:
            Exception: Raised by the condition.
        """
        return bool(self._conditions[step](task))

    def is_closed(self, step: int) -> bool:
        """Tell whether a task may get to a step and no process has it unpacked: the patches of a group were joined.

        The workers of the step evaluate its condition then.
        """
        return False

    def expected_time(self, times: Sequence[float]) -> float:
        """Return the time for the whole route.

        Args:
            times: The time for each step.
        """
        return sum(times)


class BranchedRoute(Route):
    """A route with groups, or with steps whose runs several tasks share: places where patches are joined.

    Args:
        conditions: As for `Route`.
        markers: As for `Route`.
        shape: The shape of the flow.
        tenants: As for `Route`.

    Attributes:
        whole: The whole flow.
    """

    def __init__(
        self,
        conditions: Sequence[Condition],
        markers: Sequence[Marker | None],
        shape: Shape,
        tenants: TenantReader | None = None,
    ) -> None:
        super().__init__(conditions, markers, tenants)
        self.whole = compile_shape(shape)
        self._following: dict[int | Group, tuple[int | Group, ...]] = {}
        self._onward: dict[int | Group, int] = {}
        self._splits: dict[tuple[Sequence[int | Group], int], Split] = {}
        self._inside = 0
        self._closed = 0
        later = [0] * self._count
        self._walk(self.whole, 0, later)
        steps = range(self._count)
        self.first = indices(_entries(self.begin(self.whole.sequence)))
        self.behind = [indices(later[step]) for step in steps]
        self.before = [[other for other in steps if later[other] >> step & 1] for step in steps]

    def next(self, step: int, task: BaseTask) -> int:
        """Return where a task goes next; see `Route.next`."""
        return self._choose(self.after(step), task)

    def leads(self, step: int, following: int) -> bool:
        """Tell whether a task may go from one step to another, in the same sequence."""
        return following in self.after(step)

    def sends_patches(self, step: int) -> bool:
        """Tell whether the workers of a step answer with patches: it is in a group, or its tasks share runs."""
        return bool(self._inside >> step & 1)

    def is_closed(self, step: int) -> bool:
        """Tell whether a task may get to a step and no process has it unpacked.

        The step is directly behind a group, or behind a step whose tasks share runs.
        """
        return bool(self._closed >> step & 1)

    def after(self, place: int | Group) -> Sequence[int | Group]:
        """Return what comes after a step, or after a group, in its sequence."""
        return self.whole.sequence if place == START else self._following[place]

    def onward(self, place: int | Group) -> int:
        """Return where a task goes from a step or a group if no condition is evaluated; see `Route.onward`."""
        return self._onward[place]

    def split(self, sequence: Sequence[int | Group], following: int) -> Split | None:
        """Return the group that a task visits next; see `Route.split`."""
        found = self._splits.get((sequence, following))
        if found is None:
            found = self._split(sequence, following)
            if found is not None and len(self._splits) < MOST_SPLITS:
                self._splits[sequence, following] = found
        return found

    def _split(self, sequence: Sequence[int | Group], following: int) -> Split | None:
        entries = ~following
        for element in sequence:
            if not isinstance(element, int) and element.steps & entries:
                begun = [(branch, branch.steps & entries) for branch in element.branches if branch.steps & entries]
                starts = [(branch, self._start(branch, bits)) for branch, bits in begun]
                is_whole = not entries & ~element.steps and all(start != FINISHED for _, start in starts)
                return (element, starts) if is_whole else None
        return None

    def expected_time(self, times: Sequence[float]) -> float:
        """Return the time for the whole route: of each group, that of its longest branch."""
        return _expected_time(self.whole, times)

    def marks_at(self, step: int, task: BaseTask) -> Marks:
        """Return what is to be known of a task while it waits for a step or a group; see `Route.marks_at`."""
        if step >= 0:
            return super().marks_at(step, task)
        found = [(first, super(BranchedRoute, self).marks_at(first, task)) for first in indices(~step)]
        return Marks(branches=tuple([(first, marks) for first, marks in found if marks != NO_MARKS]))

    def _choose(self, sequence: Sequence[int | Group], task: BaseTask) -> int:
        for element in sequence:
            if isinstance(element, int):
                if self._conditions[element](task):
                    return element
                continue
            entries = sum([_entries(self._choose(branch.sequence, task)) for branch in element.branches])
            if entries:
                return ~entries
        return FINISHED

    def _start(self, branch: Branch, entries: int) -> int:
        """Return where a task begins a branch; `FINISHED` if it cannot begin with these steps."""
        for element in branch.sequence:
            if isinstance(element, int):
                if entries >> element & 1:
                    return element if entries == 1 << element else FINISHED
            elif element.steps & entries:
                return FINISHED if self.split((element,), ~entries) is None else ~entries
        return FINISHED

    def _walk(self, branch: Branch, outside: int, later: list[int]) -> None:
        """Note for each step and group of a branch what follows, and for each step what may follow at all.

        Args:
            branch: The branch.
            outside: The steps after the group that it is in.
            later: The steps that may follow each step.
        """
        following = outside
        for position in range(len(branch.sequence) - 1, -1, -1):
            element = branch.sequence[position]
            after = self._following[element] = branch.sequence[position + 1 :]
            onward = self._onward[element] = self.begin(after)
            if isinstance(element, int):
                later[element] = following
                following |= 1 << element
                if shares_runs(self._markers, element):
                    self._inside |= 1 << element
                    self._closed |= _entries(onward)
                continue
            self._inside |= element.steps
            self._closed |= _entries(onward)
            for inner in element.branches:
                self._walk(inner, following, later)
            following |= element.steps


def make_route(
    conditions: Sequence[Condition],
    markers: Sequence[Marker | None] = (),
    shape: Shape = (),
    tenants: TenantReader | None = None,
) -> Route:
    """Return the route of a flow.

    Args:
        conditions: As for `Route`.
        markers: As for `Route`.
        shape: The shape of the flow; empty if all steps run one after the other.
        tenants: As for `Route`.
    """
    steps = range(len(conditions))
    if is_flat(shape) and not any(shares_runs(markers, step) for step in steps):
        return Route(conditions, markers, tenants)
    return BranchedRoute(conditions, markers, shape or tuple([str(step) for step in steps]), tenants)


def shares_runs(markers: Sequence[Marker | None], step: int) -> bool:
    """Tell whether tasks may share runs of a step."""
    marker = markers[step] if markers else None
    return marker is not None and marker.coalesce_key is not None


def first_of(following: int) -> int:
    """Return the first step of those that a task visits next, from `Route.next`."""
    return following if following >= 0 else indices(~following)[0]


def _entries(following: int) -> int:
    """Return the steps that a task visits next as bits."""
    return 1 << following if following >= 0 else ~following


def _expected_time(branch: Branch, times: Sequence[float]) -> float:
    return sum(
        times[element] if isinstance(element, int) else max(_expected_time(inner, times) for inner in element.branches)
        for element in branch.sequence
    )
