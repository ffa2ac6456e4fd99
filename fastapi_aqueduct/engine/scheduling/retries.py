"""What becomes of the tasks of a worker that has died."""

from __future__ import annotations

from collections.abc import Callable

from ...exceptions import WorkerDied
from ..memory.ledger import Ledger
from ..workers.handle import WorkerLink
from .stage import StepDesk
from .ticket import Record


class Retries:
    """Puts the tasks of dead workers back into the queue of their step, or ends them.

    Args:
        ledger: Who holds which block.
        settle: Ends a task with an outcome and an error.
    """

    def __init__(self, ledger: Ledger, settle: Callable[[Record, str, Exception | None], None]) -> None:
        self._ledger = ledger
        self._settle = settle

    def take_over(self, desk: StepDesk, link: WorkerLink, error: WorkerDied) -> bool:
        """Decide on each task that a dead worker had: what it had begun is tried again or fails, what not waits again.

        Args:
            desk: Its step.
            link: The worker; its last answers have been read.
            error: What the callers of tasks that fail get.

        Returns:
            Whether it died with a task in hand with which another worker has died before.
        """
        done, in_hand, untouched = link.take_all(self._ledger.arena.task_of(link.region))
        for record in reversed(untouched):
            self._put_back(desk, record)
        for record in in_hand:
            record.deaths += 1  # what was done already did not kill it
        for record in done + in_hand:
            self._retry(desk, record, error)
        return any(record.deaths > 1 for record in in_hand)

    def _put_back(self, desk: StepDesk, record: Record) -> None:
        record.holder = 0
        if record.is_settled:
            self._ledger.drop(record.content.blocks)
            return
        record.is_waiting = True
        if record.deaths:
            desk.queue.push_alone(record)
        else:
            desk.queue.push_back(record)

    def _retry(self, desk: StepDesk, record: Record, error: WorkerDied) -> None:
        record.holder = 0
        if record.is_settled:
            self._ledger.drop(record.content.blocks)
        elif record.deaths > desk.max_retries or not self._may_run_again(desk, record):
            self._settle(record, "failed", WorkerDied(error.step, error.pid, error.exit_code, error.reason))
        else:
            desk.retries += 1
            record.is_waiting = True
            desk.queue.push_alone(record)

    def _may_run_again(self, desk: StepDesk, record: Record) -> bool:
        return desk.max_retries > 0 and not any(ref.shared for ref in record.content.blocks)
