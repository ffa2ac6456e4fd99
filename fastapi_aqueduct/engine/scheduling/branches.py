"""The branches of one task that run side by side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from ...reports import RawStep
from ..shape import Branch, Group
from ..wire.codec import Encoded
from ..wire.frames import Status
from .ticket import Ticket

NamedPatch = tuple[frozenset[str], Encoded]
"""The names of the fields that a patch sets or deletes, and the patch."""


class BranchTicket(Ticket):
    """A task in one branch of a group.

    It has a place in a queue, a holder and deaths of its own. Receiver and deadline are those of the whole task, and so
    is its number: a worker has at most one branch of a task in hand.

    Args:
        parent: The ticket of the task, or of the branch that the group is in.
        branch: The branch.

    Attributes:
        parent: As given.
        branch: As given.
        patches: What the steps of the branch have changed, in their order, without what was replaced; blocks are held.
        fields: The names of the fields that they have set or deleted.
        has_ended: Whether its last step has answered.
        unconsumed: Weight of the items that its present step has sent, and that have not been granted again.
    """

    __slots__ = ("branch", "fields", "has_ended", "parent", "patches", "unconsumed")
    is_branch: ClassVar[bool] = True

    def __init__(self, parent: Ticket, branch: Branch) -> None:
        super().__init__(
            parent.id, None, None, parent.content, parent.priority, parent.deadline, parent.started_at
        )
        self.parent = parent
        self.branch = branch
        self.patches: list[NamedPatch] = []
        self.fields: frozenset[str] = frozenset()
        self.has_ended = False
        self.unconsumed = 0

    def add(self, patches: list[NamedPatch]) -> list[Encoded]:
        """Add patches; remove and return those before them of which each field is set or deleted anew.

        Args:
            patches: What the next step of the branch has changed, or the branches of a group in it.
        """
        if not self.patches:  # as in nearly all branches
            self.patches = patches
            self.fields = patches[0][0] if len(patches) == 1 else _fields_of(patches)
            return []
        fields = _fields_of(patches)
        replaced = [patch for names, patch in self.patches if names <= fields]
        if replaced:
            self.patches = [before for before in self.patches if not before[0] <= fields]
        self.patches += patches
        self.fields |= fields
        return replaced

    @property
    def root(self) -> Ticket:
        """The ticket of the whole task."""
        return self.parent.root

    @property
    def branches(self) -> tuple[str, ...]:
        """The branches that it is in, in words, the outermost first."""
        return (*self.parent.branches, self.branch.name)

    @property
    def has_items(self) -> bool:
        """Whether the caller has received an item."""
        return self.root.has_items

    def item_age(self, now: float) -> float | None:
        """Return the seconds since the last item of the task; None if there was none."""
        return self.root.item_age(now)

    def is_late(self, now: float) -> bool:
        """Tell whether the deadline of the task has passed."""
        return self.root.is_late(now)


class StreamBranchTicket(BranchTicket):
    """A branch of a task whose caller wants its items."""

    __slots__ = ()
    status: ClassVar[int] = int(Status.STREAM)


class OpenBranches:
    """The branches of a task that is in a group; see `ticket.Branches`.

    Args:
        group: The group.
        tickets: The tickets of the branches that the task visits.

    Attributes:
        group: As given.
        tickets: As given.
        left: How many of them have not ended.
    """

    def __init__(self, group: Group, tickets: list[BranchTicket]) -> None:
        self.group = group
        self.tickets = tickets
        self.left = len(tickets)

    def open(self) -> Iterator[BranchTicket]:
        """Yield the tickets that wait for a step or are in a worker's hands, also of groups in the branches."""
        for ticket in self.tickets:
            if ticket.group is not None:
                yield from ticket.group.open()
            elif not ticket.has_ended:
                yield ticket

    def records(self) -> tuple[RawStep, ...]:
        """Return the times of the steps that have answered, in the order of their answers."""
        records: list[RawStep] = []
        for ticket in self.tickets:
            records += ticket.metrics
            if ticket.group is not None:
                records += ticket.group.records()
        return tuple(sorted(records, key=_answered_at))

    def postpone(self, seconds: float) -> None:
        """Move the deadlines by a pause of the process."""
        for ticket in self.tickets:
            ticket.postpone(seconds)

    def share(self, weight: int) -> list[tuple[Ticket, int]]:
        """Divide what the consumer of a stream has taken among the branches that have sent it.

        Args:
            weight: Its weight.

        Returns:
            The tickets, and how much more each may send. The one that has sent most comes first.
        """
        shares: list[tuple[Ticket, int]] = []
        for ticket in sorted(self.open(), key=_unconsumed, reverse=True):
            part = min(weight, ticket.unconsumed)
            if part:
                ticket.unconsumed -= part
                weight -= part
                shares.append((ticket, part))
        return shares

    def conflict_of(self, ticket: BranchTicket) -> tuple[str, BranchTicket] | None:
        """Return a field that a branch has set and another one, too, and that other one; None if there is none.

        Args:
            ticket: The branch; the other ones are those that have ended.
        """
        if not ticket.fields:
            return None
        for other in self.tickets:
            if other is not ticket and other.has_ended:
                both = other.fields & ticket.fields
                if both:
                    return min(both), other
        return None


def _fields_of(patches: list[NamedPatch]) -> frozenset[str]:
    return frozenset().union(*[names for names, _ in patches])


def _answered_at(record: RawStep) -> float:
    return record[4]


def _unconsumed(ticket: BranchTicket) -> int:
    return ticket.unconsumed
