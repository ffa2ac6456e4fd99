"""The tasks that a handler has in hand, and what they ask their worker."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from ...task import BaseTask
from ..wire.frames import Envelope
from .worker import Worker


class Hand:
    """Answers what tasks ask during a call of the handler, such as ``task.is_cancelled``.

    Args:
        worker: Exchanges frames with the API process.

    Attributes:
        offered: The tasks of the present call, as they came and decoded; None between two calls, since a reference that
            stays would keep their blocks. The tasks are searched only when one of them asks, which is rare.
    """

    def __init__(self, worker: Worker) -> None:
        self.offered: tuple[Sequence[Envelope], Sequence[object]] | None = None
        self._worker = worker
        self._thread = threading.get_ident()

    def is_cancelled(self, task: BaseTask) -> bool:
        """Tell whether the caller of a task does not wait for it any more."""
        envelope = self._find(task)
        if envelope is None:
            return False
        if threading.get_ident() == self._thread and not self._worker.channel.is_closed:
            self._worker.look()  # only one thread may receive
        return envelope.id in self._worker.cancelled

    def _find(self, task: Any) -> Envelope | None:
        for envelope, other in zip(*(self.offered or ((), ())), strict=True):
            if other is task:
                return envelope
        return None
