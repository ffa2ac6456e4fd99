"""Groups: has the branches of tasks run side by side, and joins what they have changed.

    ticket ─▶ begin ─┬─▶ branch ticket ─▶ steps of the branch ─┬─▶ end ─▶ ticket, with all patches joined
                     └─▶ branch ticket ─▶ steps of the branch ─┘

While its branches are open, the ticket of a task keeps its receiver, its deadline and its hold on the blocks of the
task. The first failure ends the task, and with it all branches.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...exceptions import FieldConflict
from ..marks import NO_MARKS, Marks
from ..memory.ledger import Ledger
from ..route import FINISHED, Route, first_of
from ..shape import Group
from ..statistics import IncidentKind
from ..wire.codec import Encoded
from ..wire.frames import Status
from ..wire.patch import join
from .branches import BranchTicket, NamedPatch, OpenBranches, StreamBranchTicket
from .stage import Stage
from .task_owner import TaskOwner
from .ticket import Ticket


class Groups:
    """Opens and closes the branches of tasks.

    Args:
        flow: Name of the flow.
        stages: The steps.
        route: The route of tasks.
        ledger: The holds on blocks.
        owner: Queues tasks and ends them.
    """

    def __init__(
        self, flow: str, stages: Sequence[Stage], route: Route, ledger: Ledger, owner: TaskOwner
    ) -> None:
        self._flow = flow
        self._stages = stages
        self._route = route
        self._ledger = ledger
        self._owner = owner

    def move(self, ticket: Ticket, step: int | Group, following: int, marks: Marks, now: float) -> None:
        """Move a ticket on from a step or a group.

        Args:
            ticket: The ticket.
            step: Index of the step, `route.START`, or the group.
            following: Where it goes; see `Route.next`. If a worker says so, `Route.may_go` has allowed it.
            marks: What is to be known of it there.
            now: The time on the clock of ``time.monotonic``.
        """
        if following >= 0:
            ticket.marks = marks.inherit(ticket.root.marks)
            self._owner.enqueue(ticket, following, now)
        elif following != FINISHED:
            self._begin(ticket, self._route.after(step), following, marks, now)
        elif isinstance(ticket, BranchTicket):
            self.end(ticket, now)
        else:
            self._owner.finish(ticket, now)

    def add_patch(self, ticket: BranchTicket, patch: Encoded, fields: Sequence[str], following: int) -> None:
        """Note what a step of a branch has changed.

        Args:
            ticket: The branch.
            patch: The patch.
            fields: The names of the fields in it.
            following: Where the branch goes next.
        """
        ticket.unconsumed = 0  # the next worker begins with a whole window
        if fields:
            self._ledger.hold(patch.blocks)
            self._extend(ticket, [(frozenset(fields), patch)], following)

    def join(self, ticket: Ticket, patches: list[Encoded]) -> None:
        """Put patches behind the content of a ticket.

        Args:
            ticket: The ticket.
            patches: The patches, in their order.
        """
        self._set_content(ticket, join(ticket.content, patches))

    def _extend(self, ticket: BranchTicket, patches: list[NamedPatch], following: int) -> None:
        """Put what a part of a branch has changed behind the content of the branch, which the next step gets."""
        replaced = ticket.add(patches)
        if replaced:
            # Without what has been replaced since, whose memory may be needed while the branch goes on or waits.
            content = join(ticket.parent.content, [patch for _, patch in ticket.patches])
            self._set_content(ticket, content._replace(extras=ticket.content.extras))
            for patch in replaced:
                self._ledger.drop(patch.blocks)
        elif following != FINISHED:
            self.join(ticket, [patch for _, patch in patches])

    def _set_content(self, ticket: Ticket, content: Encoded) -> None:
        if content.blocks or ticket.content.blocks:
            # In this order: a block that is in both must not become free between the two.
            self._ledger.hold(content.blocks)
            self._ledger.drop(ticket.content.blocks)
        ticket.content = content

    def end(self, ticket: BranchTicket, now: float) -> None:
        """End a branch; when it is the last one of its group, the task goes on with what all have changed."""
        parent, branches = ticket.parent, ticket.parent.group
        assert isinstance(branches, OpenBranches)
        conflict = branches.conflict_of(ticket)
        if conflict is not None:
            error = self._conflict_error(ticket, *conflict)
            self._stages[ticket.step].pool.incidents.note(IncidentKind.ERROR, type(error).__name__, str(error))
            self._owner.settle(ticket, "failed", error)
            return
        ticket.has_ended = True
        branches.left -= 1
        if not branches.left:
            self._close(parent, branches, now)

    def abandon(self, ticket: Ticket) -> None:
        """End the branches of a task that ends."""
        branches, ticket.group = ticket.group, None
        assert isinstance(branches, OpenBranches)
        ticket.metrics += branches.records()
        for branch in branches.tickets:
            branch.is_settled = True
            if branch.group is not None:
                self.abandon(branch)
            for _, patch in branch.patches:
                self._ledger.drop(patch.blocks)
            branch.patches.clear()
            self._owner.retract(branch)

    def _begin(
        self, ticket: Ticket, sequence: Sequence[int | Group], following: int, marks: Marks, now: float
    ) -> None:
        """Open the branches of the group that a ticket visits next."""
        found = self._route.split(sequence, following)
        assert found is not None
        group, starts = found
        make = StreamBranchTicket if ticket.status == Status.STREAM else BranchTicket
        tickets = [make(ticket, branch) for branch, _ in starts]
        ticket.step = first_of(following)
        ticket.arrived_at = now
        ticket.group = OpenBranches(group, tickets)
        blocks = ticket.content.blocks
        if blocks:
            for _ in tickets:
                self._ledger.hold(blocks)
        for branch, (_, start) in zip(tickets, starts, strict=True):
            if branch.is_settled:
                continue
            if start >= 0:
                branch.marks = marks.of_branch(start).inherit(ticket.root.marks)
                self._owner.enqueue(branch, start, now)
            else:
                self._begin(branch, branch.branch.sequence, start, marks, now)

    def _close(self, ticket: Ticket, branches: OpenBranches, now: float) -> None:
        """Join what the branches of a group have changed, and move the task on."""
        following = self._route.onward(branches.group)
        patches = [patch for branch in branches.tickets for patch in branch.patches]
        ticket.group = None
        ticket.metrics += branches.records()
        if isinstance(ticket, BranchTicket):
            self._extend(ticket, patches, following)
        else:
            self.join(ticket, [patch for _, patch in patches])
            for _, patch in patches:
                self._ledger.drop(patch.blocks)
        for branch in branches.tickets:
            self._ledger.drop(branch.content.blocks)
        self.move(ticket, branches.group, following, NO_MARKS, now)

    def _conflict_error(self, ticket: BranchTicket, field: str, other: BranchTicket) -> FieldConflict:
        group = ticket.parent.group
        assert isinstance(group, OpenBranches)
        first, second = (branch.branch.name for branch in group.tickets if branch in (ticket, other))
        return conflict_error(self._flow, field, first, second)


def conflict_error(flow: str, field: str, first: str, second: str) -> FieldConflict:
    """Return the error of a task of which two branches have set or deleted the same field.

    Args:
        flow: Name of the flow.
        field: Name of the field.
        first: The one branch, in words.
        second: The other one.
    """
    return FieldConflict(
        f"field {field!r} of a task of flow {flow} was set or deleted in two branches of a group, {first} and "
        f"{second}: have one of them set it, or a step behind the group",
        field=field,
        branches=(first, second),
    )
