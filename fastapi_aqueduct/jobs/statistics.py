"""How many jobs of a flow there are, and were."""

from __future__ import annotations

from typing import NamedTuple, Self

from .status import JobState


class JobStatistics(NamedTuple):
    """The jobs of a flow.

    Attributes:
        pending: How many have not ended, by state.
        ended: How many have ended since the file of the store was made, by state.
        oldest_age: Seconds since the oldest of those that have not ended was accepted; 0 where there is none.
    """

    pending: dict[str, int]
    ended: dict[str, int]
    oldest_age: float = 0.0

    @classmethod
    def zero(cls) -> Self:
        """Return those of a flow that never had a job."""
        pending = (JobState.QUEUED, JobState.RUNNING)
        return cls(
            {state.value: 0 for state in pending},
            {state.value: 0 for state in JobState if state not in pending},
        )
