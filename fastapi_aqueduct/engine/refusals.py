"""Refusals: counts what a flow has refused, by reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from ..exceptions import reason_of

E = TypeVar("E", bound=Exception)


class Refusals:
    """Counts the calls and uploads that were refused before they became tasks.

    It outlives the engines of a flow: calls of a flow that does not run are refused, too.

    Args:
        listener: Called with the reason and the error of each refusal, where it is raised.

    Attributes:
        told: Those that pipeline processes were told of with which this process is not connected any more.
    """

    def __init__(self, listener: Callable[[str, Exception], object] | None = None) -> None:
        self._counts: Counter[str] = Counter()
        self._listener = listener
        self.told: Counter[str] = Counter()

    def count(self, error: E) -> E:
        """Count a refusal, where its error is raised: ``raise refusals.count(QueueFull(...))``.

        Args:
            error: The error.

        Returns:
            The same error.
        """
        reason = reason_of(error)
        self._counts[reason] += 1
        if self._listener is not None:
            self._listener(reason, error)
        return error

    def by_reason(self) -> dict[str, int]:
        """Return the numbers since the flow was made, by `reason_of` their errors."""
        return dict(self._counts)
