"""The first step of a flow that tenants share, as the dispatcher sees it."""

from __future__ import annotations

from collections.abc import Sequence

from ..timing import Timing
from ..workers.pool import Pool
from .batch_delay import BatchDelay
from .fair_queue import FairQueue
from .fair_waiters import FairWaiters
from .lane_stage import LaneStage, make_stage
from .marked_queue import MarkedQueue
from .meter import StepMeter
from .stage import Stage
from .ticket import Ticket


class FairStage(LaneStage):
    """A step that tenants share.

    Args:
        pool: As for `Stage`.
        queue_size: As for `Stage`.
        priorities: As for `Stage`.
        meter: As for `Stage`.
        timing: As for `Stage`.
        limit: The most tasks of one tenant that may wait for it, in each level.
    """

    fair: FairQueue[Ticket]

    def __init__(
        self,
        pool: Pool,
        queue_size: int,
        priorities: int,
        meter: StepMeter | None,
        timing: Timing,
        limit: int,
    ) -> None:
        self._tenant_limit = limit
        super().__init__(pool, queue_size, priorities, meter, timing)
        self.waiters = FairWaiters(self.fair, queue_size)

    def _make_queue(
        self, timeout: float, is_patient: bool, priorities: int
    ) -> tuple[MarkedQueue[Ticket], BatchDelay | None]:
        step = self.pool.step
        is_keyed = step.batch_key is not None
        self.fair = FairQueue(step.call_size, timeout, priorities, self._tenant_limit, is_keyed, self._most_cost)
        # With keys each would have to learn for itself; a batch goes as soon as a worker is idle.
        return self.fair, BatchDelay(step.call_size) if is_patient and not is_keyed else None


def make_stages(
    pools: Sequence[Pool],
    queue_size: int,
    priorities: int,
    meters: Sequence[StepMeter | None],
    timing: Timing,
    limit: int | None,
) -> list[Stage]:
    """Make what the dispatcher and the scheduler need of the steps of a flow; see `Stage`.

    Args:
        pools: Their workers.
        queue_size: Tasks that may wait for each, in each level.
        priorities: Number of levels.
        meters: Measure them.
        timing: The times of the engine.
        limit: The most tasks of one tenant that may wait for the first one, in each level; None: no tenants share it.
    """
    stages: list[Stage] = []
    for pool, meter in zip(pools, meters, strict=True):
        if limit is None or stages:
            stages.append(make_stage(pool, queue_size, priorities, meter, timing))
        else:
            stages.append(FairStage(pool, queue_size, priorities, meter, timing, limit))
    return stages
