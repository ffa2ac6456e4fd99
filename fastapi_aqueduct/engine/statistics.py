"""Statistics of a flow: immutable snapshots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class WorkerState(StrEnum):
    """The state of a worker."""

    STARTING = "starting"
    READY = "ready"
    RETIRING = "retiring"
    STOPPING = "stopping"
    DEAD = "dead"


class WorkerRole(StrEnum):
    """What a worker is for.

    Attributes:
        SERVING: It is one of the workers that the step should have.
        CANARY: It tries out another handler with a share of the tasks.
        SHADOW: It tries out another handler with copies of tasks, whose answers go to no caller.
    """

    SERVING = "serving"
    CANARY = "canary"
    SHADOW = "shadow"


class DeathCause(StrEnum):
    """Why a worker that should serve has ended.

    Attributes:
        START: It ended, or was killed, before it was ready.
        EXIT: It exited by itself.
        SIGNAL: A signal has ended it, which came from a crash or from another process.
        HANG: A call of its handler took longer than ``handle_timeout``, or a check of it than ``check_timeout``.
        MEMORY: The kernel was out of memory.
        PROTOCOL: It has sent an invalid message.
    """

    START = "start"
    EXIT = "exit"
    SIGNAL = "signal"
    HANG = "hang"
    MEMORY = "memory"
    PROTOCOL = "protocol"


class WearKind(StrEnum):
    """Why a worker that works is replaced."""

    AGE = "age"
    TASKS = "tasks"
    MEMORY = "memory"


class IncidentKind(StrEnum):
    """What has gone wrong in a step.

    Attributes:
        DEATH: A worker has ended that should serve, or one that tries out another handler.
        LAUNCH: A worker could not be launched.
        UNHEALTHY: The check of a handler has found its model wrong.
        ERROR: A task has failed with an exception of the handler, or two branches have set the same field.
        TIMEOUT: The deadline of a task has passed.
    """

    DEATH = "death"
    LAUNCH = "launch"
    UNHEALTHY = "unhealthy"
    ERROR = "error"
    TIMEOUT = "timeout"


@dataclass(frozen=True)
class Incident:
    """Something that has gone wrong in a step. Incidents with the same subject are one.

    Attributes:
        kind: What it is.
        subject: What it has happened to, such as ``"pid 4711"``, or the name of the class of an exception.
        text: Why, in words; of an exception its text, cut where it is long. It is not trusted: show it as text.
        at: When it has happened, or happened last, in seconds since the epoch.
        count: How often.
    """

    kind: IncidentKind
    subject: str
    text: str
    at: float
    count: int = 1


@dataclass(frozen=True)
class Histogram:
    """The number of measured values in each range.

    Attributes:
        bounds: Upper bounds of the ranges, inclusive; the last range has none.
        counts: Number of values in each range: one more than there are bounds.
        sum: Sum of the values.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float

    @property
    def count(self) -> int:
        """Number of values."""
        return sum(self.counts)


@dataclass(frozen=True)
class StepHistograms:
    """What was measured of a step since the start, in seconds unless stated otherwise.

    Attributes:
        queue_wait: From the arrival of a task at the step until it was sent to a worker.
        handle_time: The calls of the handler. Calls shorter than 0.1 ms are measured several at a time. A generator
            counts as one call, with the time of its own turns only; a task of a continuous call counts as one call.
        transfer_time: To the worker and back, including encoding and decoding in the worker, for each group of tasks
            that is answered together; without the time in which the worker worked on others. None for generators, where
            it cannot be told apart from the turns of others.
        batch_size: Tasks sent for one call of the handler. None for a step without batches.
        batch_delay: The wait of a batch for more tasks while a worker was idle. None for a step without batches.
    """

    queue_wait: Histogram
    handle_time: Histogram
    transfer_time: Histogram | None
    batch_size: Histogram | None
    batch_delay: Histogram | None


@dataclass(frozen=True)
class FlowHistograms:
    """What was measured of a flow since the start, in seconds.

    Attributes:
        total_time: From the call of the flow to the answer, of completed tasks.
        first_item: From the call of the flow to the first item of a stream.
        item_interval: Between two items of a stream; 0 for items that arrive together.
    """

    total_time: Histogram
    first_item: Histogram
    item_interval: Histogram


@dataclass(frozen=True)
class StepLoad:
    """How much of the time of its workers a step uses.

    Attributes:
        busy_time: Seconds that the workers have been busy since the start, in total. A worker is busy during the calls
            of a plain handler; where calls run side by side, it is busy by the share of its places that are taken.
        ready_time: Seconds that the workers have been ready since the start, in total.
        busy_share: Busy time divided by ready time: 1 when all workers are always busy. It covers the last half minute,
            or the time since the statistics were last read if that is longer.
    """

    busy_time: float
    ready_time: float
    busy_share: float


@dataclass(frozen=True)
class WorkerStatistics:
    """One worker process.

    Attributes:
        pid: Its process id; None before it has one.
        state: Its state.
        in_flight: Number of its tasks.
        index: Its number in the step, from 0; a worker that replaces another one has the same.
        version: The version of the handler that it runs, from 1.
        device_id: The number or UUID of its device, or several with commas between them; None without
            `WorkerOptions.devices`.
        role: Whether it is one of those that the step should have, or tries out another handler beside them.
        problem: What is wrong with its model, as `BaseTaskHandler.check` has said; empty while nothing is.
        hanging_for: Seconds for which it has been in a call of the handler whose tasks have ended without an answer; 0
            while that may be normal.
        batch_ceiling: The most tasks that its calls get, because larger batches have run out of memory; 0 while none
            has.
    """

    pid: int | None
    state: WorkerState
    in_flight: int
    index: int = 0
    version: int = 1
    device_id: str | None = None
    role: WorkerRole = WorkerRole.SERVING
    problem: str = ""
    hanging_for: float = 0.0
    batch_ceiling: int = 0


@dataclass(frozen=True)
class TrialSide:
    """What one side of a comparison has done since its beginning.

    Attributes:
        version: The version of its handler.
        tasks: Tasks that it has answered, with a result or an error.
        failed: Those of them that ended with an exception.
        errors: The same by the name of the exception's class.
        deaths: Workers that have died.
        handle_time: Seconds of the calls of its handler, as `StepHistograms.handle_time`.
    """

    version: int
    tasks: int
    failed: int
    errors: Mapping[str, int]
    deaths: int
    handle_time: Histogram


@dataclass(frozen=True)
class TrialReport:
    """A comparison of a handler that is tried out with the one that serves, from the first task that it could get.

    Attributes:
        baseline: The workers of the step.
        candidate: The worker that tries out the other handler.
        skipped: Of a shadow: tasks that were not copied or not run, because it was behind or not ready.
        skipped_writable: Of a shadow: tasks that were not copied, because they carry fields that handlers change in
            shared memory (`share_value`).
        pairs_dropped: Of a shadow: pairs of answers that were dropped, because they were not read in time.
        role: Whether it is a canary or a shadow.
    """

    baseline: TrialSide
    candidate: TrialSide
    skipped: int = 0
    skipped_writable: int = 0
    pairs_dropped: int = 0
    role: WorkerRole = WorkerRole.CANARY

    @property
    def share(self) -> float:
        """Part of the answered tasks that the candidate has answered: of a canary its share. 0 before the first."""
        return self.candidate.tasks / (self.baseline.tasks + self.candidate.tasks or 1)


@dataclass(frozen=True)
class StepStatistics:
    """One step.

    Attributes:
        name: Its name.
        workers: Its worker processes, including those being started.
        nprocs: The number of workers it should have now; 0 while it is asleep.
        version: The version of the handler that new workers run: 1, and one more with each replacement.
        queued: Tasks that wait for it.
        queued_by_priority: The same by level of priority, the lowest first; empty while the flow does not run.
        restarts: Workers that died and were replaced since the start.
        restarts_by_cause: The same by the cause of the death.
        recycled: Workers that were replaced because of their age, tasks or memory.
        recycled_by_kind: The same for each of the three.
        log_records_dropped: Log records of its workers that were dropped because too many waited.
        retries: Tasks that were tried again after a worker had died.
        coalesced: Tasks that shared a run which another one had begun, as `FlowStep.coalesce_key` says.
        is_broken: Whether workers die so often that the step counts as not ready.
        is_given_up: Whether there has been no ready worker, or no call has returned, for so long that only a restart of
            the server helps.
        is_asleep: Whether it has no workers because there was no task for long; the next task wakes it.
        is_waking: Whether it was asleep and has no ready worker yet.
        expected_wait: Seconds until a worker is expected to be ready; 0 when one is. While the step is asleep, what its
            last worker needed to start.
        expected_time: Seconds that a task arriving now should take here, with its wait in the queue, at the measured
            rate; what admission compares with a task's deadline. 0 while no worker is ready.
        failed_launches: Launches of workers that failed because the system had no descriptor, memory or process left.
        hanging_for: Seconds for which all workers have been in calls of the handler whose tasks have ended without an
            answer; 0 while that may be normal.
        load: How busy the workers are; None while the flow does not run, and with ``metrics_enabled=False``.
        histograms: What was measured; None as for ``load``.
        change: What happens to the step now, such as ``"replaced"`` or ``"scaled"``; empty while nothing does.
        trial: The comparison of the canary or shadow that the step has now; None while there is none.
        incidents: What has gone wrong lately, the last one first.
    """

    name: str
    workers: tuple[WorkerStatistics, ...]
    nprocs: int
    queued: int
    restarts: int = 0
    recycled: int = 0
    log_records_dropped: int = 0
    retries: int = 0
    is_broken: bool = False
    is_given_up: bool = False
    is_asleep: bool = False
    is_waking: bool = False
    expected_wait: float = 0.0
    failed_launches: int = 0
    hanging_for: float = 0.0
    queued_by_priority: tuple[int, ...] = ()
    expected_time: float = 0.0
    restarts_by_cause: Mapping[DeathCause, int] = field(default_factory=dict)
    recycled_by_kind: Mapping[WearKind, int] = field(default_factory=dict)
    load: StepLoad | None = None
    histograms: StepHistograms | None = None
    version: int = 1
    change: str = ""
    trial: TrialReport | None = None
    incidents: tuple[Incident, ...] = ()
    coalesced: int = 0

    @property
    def ready_workers(self) -> int:
        """Number of workers that are ready, without a canary or shadow."""
        return len(self._serving())

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong with the models of these workers, one text for each that is unhealthy."""
        return tuple(worker.problem for worker in self._serving() if worker.problem)

    @property
    def batch_ceiling(self) -> int:
        """The lowest `WorkerStatistics.batch_ceiling` of these workers; 0 while none has one."""
        return min((worker.batch_ceiling for worker in self._serving() if worker.batch_ceiling), default=0)

    def _serving(self) -> list[WorkerStatistics]:
        return [
            worker
            for worker in self.workers
            if worker.state is WorkerState.READY and worker.role is WorkerRole.SERVING
        ]


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
class TemplateStatistics:
    """The template process of a flow.

    Attributes:
        pid: Its process id; None while there is none that has loaded.
        deaths: How many have ended since the start after they had loaded.
    """

    pid: int | None = None
    deaths: int = 0


@dataclass(frozen=True)
class RecordingStatistics:
    """What became of tasks that failed, in this process, since the flow was made.

    Attributes:
        recorded: Tasks that were recorded.
        dropped: Tasks that were not, by reason: ``"too_many"`` of the same failure in a minute, ``"backlog"`` while
            others are being written, ``"too_large"``, ``"redact"`` when that function has raised, ``"unwritable"``.
    """

    recorded: int
    dropped: Mapping[str, int]


@dataclass(frozen=True)
class FlowStatistics:
    """A flow.

    Attributes:
        name: Its name.
        state: Its state, as in `fastapi_aqueduct.flow.FlowState`.
        steps: Its steps in order.
        arena: Its shared memory.
        in_flight: Tasks that are not settled.
        uploads: Bodies of requests that are arriving.
        completed: Tasks that were finished since the start.
        failed: Tasks whose handler raised or whose worker died.
        timed_out: Tasks whose deadline passed.
        cancelled: Tasks whose caller left.
        refusals: Calls and uploads that were refused before they became tasks, since the flow was made, by reason:
            ``"queue_full"``, ``"tenant_over_share"``, ``"deadline_unreachable"``, ``"step_unavailable"``,
            ``"overloaded"``, ``"arena_full"``, ``"task_too_large"``, ``"not_running"``, ``"forked"``, and over HTTP
            ``"body_too_large"``, ``"body_too_slow"``, ``"unsupported_body"``, ``"body_length_mismatch"``,
            ``"malformed_body"``.
        histograms: What was measured; None while the flow does not run, and with ``metrics_enabled=False``.
        template: Its template process; None without the option ``template``, and while the flow does not run.
        silent_for: Seconds for which the pipeline process of several API processes has given no sign of life; 0 while
            that may be normal. The other numbers are from before.
        reason: Why it does not run, if that is known: what ended the pipeline process, or the last attempt to start it.
        recordings: What became of tasks that failed; None without a recorder.
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
    uploads: int = 0
    histograms: FlowHistograms | None = None
    refusals: Mapping[str, int] = field(default_factory=dict)
    template: TemplateStatistics | None = None
    silent_for: float = 0.0
    reason: str = ""
    recordings: RecordingStatistics | None = None


def statistics_at_rest(
    name: str, state: str, steps: Mapping[str, int], memory_limit: int, refusals: Mapping[str, int]
) -> FlowStatistics:
    """Return a snapshot of a flow that does not run.

    Args:
        name: Its name.
        state: Its state.
        steps: How many workers each step should have.
        memory_limit: The most bytes of shared memory that may be in use.
        refusals: As in `FlowStatistics`.
    """
    parts = tuple(StepStatistics(step, (), nprocs, 0) for step, nprocs in steps.items())
    return FlowStatistics(name, state, parts, ArenaStatistics(memory_limit), 0, 0, 0, 0, 0, refusals=refusals)
