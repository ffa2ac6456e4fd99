"""Statistics of a flow: immutable snapshots."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class WorkerState(StrEnum):
    """The state of a worker."""

    STARTING = "starting"
    READY = "ready"
    RETIRING = "retiring"
    STOPPING = "stopping"
    DEAD = "dead"


@dataclass(frozen=True)
class WorkerStatistics:
    """One worker process.

    Attributes:
        pid: Its process id; None before it has one.
        state: Its state.
        in_flight: Number of its tasks.
    """

    pid: int | None
    state: WorkerState
    in_flight: int


@dataclass(frozen=True)
class StepStatistics:
    """One step.

    Attributes:
        name: Its name.
        workers: Its worker processes, including those being started.
        nprocs: The number of workers it should have.
        queued: Tasks that wait for it.
        restarts: Workers that died and were replaced since the start.
        recycled: Workers that were replaced because of their age, tasks or memory.
        retries: Tasks that were tried again after a worker had died.
        is_broken: Whether workers die so often that the step counts as not ready.
        is_given_up: Whether there has been no ready worker, or no call has returned, for so long that only a restart of
            the server helps.
        expected_wait: Seconds until a worker is expected to be ready; 0 when one is.
        failed_launches: Launches of workers that failed because the system had no descriptor, memory or process left.
        hanging_for: Seconds for which all workers have been in calls of the handler whose tasks have ended without an
            answer; 0 while that may be normal.
    """

    name: str
    workers: tuple[WorkerStatistics, ...]
    nprocs: int
    queued: int
    restarts: int = 0
    recycled: int = 0
    retries: int = 0
    is_broken: bool = False
    is_given_up: bool = False
    expected_wait: float = 0.0
    failed_launches: int = 0
    hanging_for: float = 0.0

    @property
    def ready_workers(self) -> int:
        """Number of workers that are ready."""
        return sum(worker.state is WorkerState.READY for worker in self.workers)


@dataclass(frozen=True)
class ArenaStatistics:
    """The shared memory.

    Attributes:
        limit: The most bytes that may be in use.
        touched: Bytes that hold memory of the system, in use or kept warm.
        used: Bytes of blocks that tasks, views or code in workers hold.
        leased: Bytes of blocks with views in the API process.
        retained: Bytes of blocks that code in a worker has kept after the end of its task.
        blocks: Number of blocks in use.
        receiving: Bytes of bodies that are still arriving.
        free: Bytes that are kept warm for reuse.
    """

    limit: int
    touched: int = 0
    used: int = 0
    leased: int = 0
    retained: int = 0
    blocks: int = 0
    receiving: int = 0
    free: int = 0


@dataclass(frozen=True)
class FlowStatistics:
    """A flow.

    Attributes:
        name: Its name.
        state: Its state, as in `fastapi_aqueduct.flow.FlowState`.
        steps: Its steps in order.
        arena: Its shared memory.
        in_flight: Tasks that are not settled.
        completed: Tasks that were finished since the start.
        failed: Tasks whose handler raised or whose worker died.
        timed_out: Tasks whose deadline passed.
        cancelled: Tasks whose caller left.
    """

    name: str
    state: str
    steps: tuple[StepStatistics, ...]
    arena: ArenaStatistics
    in_flight: int
    completed: int
    failed: int
    timed_out: int
    cancelled: int
