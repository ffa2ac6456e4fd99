"""What code in workers has kept of shared memory."""

from __future__ import annotations

from collections.abc import Iterable

from ..memory.ledger import Ledger
from ..wire.frames import ProtocolError
from ..workers.handle import WorkerHandle


class Retention:
    """Holds the blocks that code in a worker still looks at when the task they came with has gone on.

    Args:
        ledger: Who holds which block.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def hold(self, worker: WorkerHandle, offsets: Iterable[int]) -> None:
        """Hold blocks for a worker.

        Raises:
            ProtocolError: There can be no such block.
        """
        for offset in offsets:
            if offset not in worker.retained:
                self._ledger.check_block(offset)
                worker.retained.add(offset)
                self._ledger.arena.hold(offset)

    def drop(self, worker: WorkerHandle, offsets: Iterable[int]) -> None:
        """End a worker's holds.

        Raises:
            ProtocolError: The worker holds no such block.
        """
        for offset in offsets:
            if offset not in worker.retained:
                raise ProtocolError(f"block {offset} is released and was not retained")
            worker.retained.discard(offset)
            self._ledger.arena.drop(offset)

    def drop_all(self, worker: WorkerHandle) -> None:
        """End all holds of a worker that is gone."""
        self.drop(worker, list(worker.retained))
