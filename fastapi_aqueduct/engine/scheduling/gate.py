"""The gate between the first step of a flow that tenants share, and the steps behind it, whose queues have no turns."""

from __future__ import annotations

import operator
from collections.abc import Sequence

from .stage import Stage


class Gate:
    """Tells how many tasks of the first step may go on, and which if that is none.

    A later step is crowded when as many tasks wait for it as keep its workers busy. If all tasks visit it, the others
    wait at the gate, where they have turns. If it has a condition, only those wait whose tenants have tasks in its
    queue: nothing tells beforehand which tasks visit it, and the others would wait for a step that is none of theirs.

    Args:
        later: The steps behind the first one.
    """

    def __init__(self, later: Sequence[Stage]) -> None:
        self._later = later

    def free(self) -> int:
        """Count the tasks that may go on, of any tenant."""
        return min([stage.supply - stage.queue.count for stage in self._later])

    def held(self) -> set[bytes] | None:
        """Return the tenants whose tasks wait while a step is crowded; None: those of all."""
        crowded = [stage for stage in self._later if stage.queue.count >= stage.supply]
        if any(stage.pool.step.handle_condition is operator.truth for stage in crowded):
            return None
        return {ticket.marks.tenant for stage in crowded for ticket in stage.queue.tasks()}
