"""Retention: the blocks of shared memory that user code in workers still has views of."""

from __future__ import annotations

from collections.abc import Iterable

from ..memory.layout import Ref
from ..memory.ledger import Ledger
from ..wire.frames import ProtocolError
from ..workers.handle import WorkerHandle


class Retention:
    """Holds blocks for workers after the task has left with which they came.

    Args:
        ledger: The holds on blocks.
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
                if self._ledger.find_unknown([Ref(offset, 1)], worker.region) is not None:
                    raise ProtocolError(f"there is no block at {offset}")
                worker.retained.add(offset)
                self._ledger.hold_block(offset)

    def drop(self, worker: WorkerHandle, offsets: Iterable[int]) -> None:
        """End a worker's holds.

        Raises:
            ProtocolError: The worker holds no such block.
        """
        for offset in offsets:
            if offset not in worker.retained:
                raise ProtocolError(f"block {offset} is released and was not retained")
            worker.retained.discard(offset)
            self._ledger.drop_block(offset)

    def drop_all(self, worker: WorkerHandle) -> None:
        """End all holds of a worker that is gone."""
        self.drop(worker, list(worker.retained))
