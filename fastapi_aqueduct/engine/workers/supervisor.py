"""Keeps the worker processes of a flow alive.

    launch ─▶ STARTING ─▶ READY ─▶ (dead) ─▶ wait ─▶ launch ...
      │           │         └─▶ (worn) ─▶ launch another ─▶ that one READY ─▶ RETIRING ─▶ STOPPING
      │           └─▶ dead during the first start: the start fails with the worker's own traceback
      └─▶ failed ─▶ wait ─▶ launch ...

While a flow runs, each worker that a step should have is there, or its launch is under way, or a timer is set for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import traceback
from collections.abc import Sequence
from functools import partial

from ...exceptions import StartError, WorkerDied, describe_exit
from ...logger import log
from ..incidents import describe_error
from ..statistics import DeathCause, IncidentKind, WorkerState
from ..system.process_memory import OutOfMemory
from ..timing import DEFAULT_TIMING, Timing
from ..wire.ceiling_report import CeilingReport
from ..wire.failures import unpack_failure
from ..wire.frames import Kind, ProtocolError
from .changes import Changes
from .first_start import FirstStart
from .group import Remains
from .handle import WorkerHandle
from .launch_errors import launch_error, template_error
from .launcher import Launcher
from .launches import Launches
from .pool import Pool
from .recycler import Recycler
from .resizing import Resizing
from .shutdown import Shutdown
from .slot import Slot
from .spec import WorkerSpec
from .start_errors import start_error
from .trial import Trial
from .wear import Wear
from .worker_logs import WorkerLogs

LEAST_DELAY = 0.001
"""Seconds until a start is tried again at least: for less, uvloop makes no timer, which is asked for its time."""


class Supervisor:
    """Starts workers, watches them and replaces those that die.

    Args:
        name: Name of the flow.
        pools: The workers of its steps.
        launcher: Starts a worker.
        start_timeout: Seconds in which a worker must be ready.
        timing: The times of the engine.
        logs: Handles what user code in workers logs; None if that is not forwarded.

    Attributes:
        launcher: As given.
        changes: Changes the workers of steps while these serve.
        shutdown: Ends the workers.
        logs: As given.
    """

    def __init__(
        self,
        name: str,
        pools: Sequence[Pool],
        launcher: Launcher,
        start_timeout: float,
        timing: Timing = DEFAULT_TIMING,
        logs: WorkerLogs | None = None,
    ) -> None:
        self._name = name
        self._pools = pools
        self.launcher = launcher
        self._start_timeout = start_timeout
        self._timing = timing
        self.logs = logs
        self._remains = Remains()
        self._recycler = Recycler(self._launch, timing.stop_time)
        self.changes = Changes(name, pools, self._recycler, self._launch, self._fit)
        self._launches = Launches(launcher, self._watch, self._on_failed_launch)
        self._first_start = FirstStart(name, pools)
        self.shutdown = Shutdown(pools, self._launches, self._remains, timing)
        self._out_of_memory = OutOfMemory()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self, timeout: float) -> None:
        """Start every worker and wait until all are ready.

        Raises:
            StartError: A worker or the template failed; the caller stops the others. The cause is its own exception.
            StartTimeout: They were not ready in time.
        """
        loop = self._loop = asyncio.get_running_loop()
        self._launches.attach(loop)
        if self.logs is not None:
            self.logs.attach(loop)
        self._first_start.begin(loop)
        self._launches.load(self._fill, self._on_failed_load)
        await self._first_start.wait(timeout)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Work in another event loop."""
        self.detach()
        self._loop = loop
        self._launches.attach(loop)
        if self.logs is not None:
            self.logs.attach(loop)
        for pool in self._pools:
            for slot in pool.slots:
                if slot.worker is not None:
                    try:
                        self._watch(pool, slot, slot.worker)
                    except OSError as exc:
                        self._on_failed_launch(pool, slot, exc)
        self._fill()
        self.changes.advance()

    def fit(self, pool: Pool, size: int) -> None:
        """Give a pool another number of workers, and wait for none; none leaves while their number is changed by hand.

        A replacement is waited for; the caller calls again. A trial is not: it may last for days.

        Args:
            pool: The pool.
            size: How many workers it should have.
        """
        if self.shutdown.has_begun:
            return
        if pool.change is None or isinstance(pool.change, Trial):
            pool.resize(size)
            self._fit(pool)
        elif isinstance(pool.change, Resizing):
            pool.change.raise_to(size)  # it may be waiting for a stream to end

    def _fit(self, pool: Pool) -> None:
        """Launch the workers that a pool lacks, and have those leave that are too many."""
        self._shed(pool)
        self._fill()

    def _shed(self, pool: Pool) -> None:
        for worker in pool.surplus():
            self._recycler.retire(pool, worker)

    def detach(self) -> None:
        """Stop watching the workers, which go on; `attach` handles what has happened meanwhile."""
        for pool in self._pools:
            for slot in pool.slots:
                if slot.worker is not None:
                    slot.worker.detach()
                slot.cancel_timers()
        self._remains.kill()
        self._launches.detach()
        if self.logs is not None:
            self.logs.detach()
        self._loop = None

    def close(self) -> None:
        """Release the threads and programs, when no more workers are launched."""
        self.launcher.close()
        for pool in self._pools:
            pool.close()

    def forget(self) -> None:
        """Close all descriptors: in a forked child, which does not own the workers."""
        self._loop = None
        for pool in self._pools:
            for worker in pool.all_workers():
                worker.forget()
            pool.close()
        self.launcher.forget()

    def lacking(self) -> int:
        """Count the workers that are missing and that no launch and no timer will bring; 0 unless there is a defect."""
        return sum(pool.missing() for pool in self._pools)

    def _on_failed_load(self, failure: BaseException) -> None:
        """Handle a template that has not loaded: the start fails."""
        self._first_start.fail(failure if isinstance(failure, StartError) else template_error(self._name, failure))

    def _fill(self) -> None:
        """Launch the workers that are missing and not on their way."""
        for pool in self._pools:
            for slot in pool.vacancies():
                self._launch(pool, slot)

    def _launch(self, pool: Pool, slot: Slot, spec: WorkerSpec | None = None) -> None:
        slot.restart = None
        if self.shutdown.has_begun or self._loop is None:
            return
        slot.spec = spec or (pool.spec if slot.serves else slot.spec)
        try:
            worker, theirs = self.launcher.prepare(
                slot, pool.free_index(slot), partial(self._on_frames, pool, slot), partial(self._on_exit, pool, slot)
            )
        except Exception as exc:
            self._on_failed_launch(pool, slot, exc)
            return
        slot.wear = Wear(pool.step, self._timing.memory_interval) if pool.has_wear else None
        pool.add(slot, worker)
        self._launches.begin(pool, slot, worker, theirs)

    def _watch(self, pool: Pool, slot: Slot, worker: WorkerHandle) -> None:
        if self._loop is None or worker.state is WorkerState.DEAD:
            return
        worker.attach(self._loop)
        if not self._first_start.is_under_way:  # else the time for the start of all workers is the limit
            worker.limit_start(self._start_timeout)
        if worker.state is WorkerState.READY:
            self._recycler.watch_age(pool, slot, self._loop)

    def _on_failed_launch(self, pool: Pool, slot: Slot, failure: BaseException) -> None:
        """Handle a launch without a process, or with one that cannot be watched and is ended."""
        worker, slot.worker = slot.worker, None
        try:
            if worker is not None:
                worker.state = WorkerState.DEAD
                worker.sentinel.abort()
                self._remains.add(worker.group)
                pool.remove(worker, WorkerDied(pool.name, worker.pid, worker.sentinel.exit_code))
                worker.close()
        finally:
            if self.shutdown.has_begun:
                self.shutdown.note_gone()
            elif self._first_start.is_under_way:
                self._first_start.fail(launch_error(self._name, pool.name, failure))
            elif pool.change is not None and pool.change.note_failed(
                slot, launch_error(self._name, pool.name, failure)
            ):
                self._go_on(pool)
            else:
                pool.failed_launches += 1
                delay = self._launch_later(pool, slot, pool.delay_after_failure(slot))
                # Not the exception itself: log handlers keep records, and its traceback refers to the whole flow.
                what = f"{type(failure).__name__}: {failure}"
                message = "a worker of %s in flow %s could not be started (%s); it is tried again in %.1f s"
                log.error(message, pool.name, self._name, what, delay)
                pool.incidents.note(IncidentKind.LAUNCH, type(failure).__name__, what)

    def _on_frames(self, pool: Pool, slot: Slot, worker: WorkerHandle, frames: list[tuple[Kind, bytes]]) -> None:
        observer, has_logs = pool.observer if pool.shadow_observer is None else pool.observer_of(worker), False
        try:
            for kind, payload in frames:
                if kind is Kind.ANSWERS:
                    observer.receive(worker, kind, payload)
                elif kind is Kind.LOG and self.logs is not None:
                    self.logs.receive(pool, worker, payload)
                    has_logs = True
                elif kind is Kind.DROPPED and self.logs is not None:
                    self.logs.note_dropped(pool, payload)
                elif kind is Kind.CHECKED:
                    self._on_checked(pool, worker, payload.decode("utf-8", "replace"))
                elif kind is Kind.CEILING:
                    self._on_ceiling(worker, CeilingReport.unpack(payload))
                elif kind is Kind.FAILED:
                    worker.failed_in, worker.failure = unpack_failure(payload, f"{worker.name} in flow {self._name}")
                elif kind is not Kind.READY:
                    observer.receive(worker, kind, payload)
                elif worker.state is WorkerState.READY:
                    self._on_ready(pool, slot, worker)
        except ProtocolError as exc:
            worker.distrust(exc)
        except Exception as exc:
            # Bytes that look like a frame may cause any exception, and so may a defect of this package, which must not
            # pass unseen. The traceback is logged as text, because log handlers keep records.
            text = traceback.format_exc()
            log.error("a message from %s in flow %s (pid %d) has failed: %s", worker.name, self._name, worker.pid, text)
            worker.distrust(exc)
        if has_logs and self.logs is not None:
            self.logs.handle_some()
        if worker.state is WorkerState.READY:
            if pool.has_wear:
                self._recycler.check(pool, slot)
        elif worker.state is WorkerState.RETIRING and not worker.in_flight.is_awaited():
            self._recycler.dismiss(worker)

    def _on_checked(self, pool: Pool, worker: WorkerHandle, problem: str) -> None:
        if not worker.health.note(problem):
            return
        if problem:
            pool.incidents.note(IncidentKind.UNHEALTHY, f"pid {worker.pid}", problem)
            message = "the model of a worker of %s in flow %s (pid %d) is unhealthy: %s"
            log.warning(message, worker.name, self._name, worker.pid, problem)
        else:
            message = "the model of a worker of %s in flow %s (pid %d) is healthy again"
            log.warning(message, worker.name, self._name, worker.pid)

    def _on_ceiling(self, worker: WorkerHandle, report: CeilingReport) -> None:
        worker.batch_ceiling = report.most
        where = (worker.name, self._name, worker.pid)
        if report.size:
            message = (
                "a worker of %s in flow %s (pid %d) has run out of memory with a batch of %d tasks (%s): its calls get "
                "%d at most for now"
            )
            log.warning(message, *where, report.size, report.reason, report.most)
        elif not report.most:
            log.info("a worker of %s in flow %s (pid %d) gets full batches again", *where)

    def _on_ready(self, pool: Pool, slot: Slot, worker: WorkerHandle) -> None:
        pool.note_ready(worker)
        if self._loop is not None:
            self._recycler.watch_age(pool, slot, self._loop)
        self._recycler.note_ready(pool, slot)
        self._first_start.note_ready()
        self._shed(pool)  # it may have been a replacement of one that has left because there were too many
        if pool.change is not None:
            pool.change.note_ready(worker)

    def _on_exit(self, pool: Pool, slot: Slot, worker: WorkerHandle) -> None:
        exit_code = worker.sentinel.exit_code
        state, worker.state = worker.state, WorkerState.DEAD
        trace, is_repeated = "", False
        with contextlib.ExitStack() as stack:  # whatever fails, the slot does not keep a dead worker
            stack.callback(lambda: self._on_empty(pool, slot, worker, state, trace, is_repeated))
            stack.callback(self._remains.add, worker.group)
            stack.callback(worker.close)
            self._on_frames(pool, slot, worker, worker.drain())  # its last answers count
            if not worker.reason and exit_code == -signal.SIGKILL and self._out_of_memory.happened():
                worker.reason, worker.cause = "the kernel was out of memory", DeathCause.MEMORY
            is_repeated = pool.remove(worker, WorkerDied(worker.name, worker.pid, exit_code, worker.reason))
            trace = worker.trace()

    def _on_empty(
        self, pool: Pool, slot: Slot, worker: WorkerHandle, state: WorkerState, trace: str, is_repeated: bool
    ) -> None:
        """Empty the slot of a dead worker, and start what follows."""
        slot.cancel_timers()
        slot.worker = None
        self._recycler.note_gone(pool, worker)
        if self.shutdown.has_begun:
            self.shutdown.note_gone()
        elif self._first_start.is_under_way:
            self._first_start.fail(self._start_error(worker))
        else:
            if state is not WorkerState.STOPPING and not self._has_failed_change(pool, slot, worker):
                self._replace(pool, slot, worker, trace, is_repeated)
            self._go_on(pool)
            if slot.is_free:
                self.launcher.vacate(slot)

    def _go_on(self, pool: Pool) -> None:
        self._recycler.check_all(pool)
        self._fill()
        if pool.change is not None:
            pool.change.advance()

    def _has_failed_change(self, pool: Pool, slot: Slot, worker: WorkerHandle) -> bool:
        if pool.change is None:
            return False
        if worker.ready_at:
            return pool.change.note_death(slot, worker)
        return pool.change.note_failed(slot, self._start_error(worker))

    def _start_error(self, worker: WorkerHandle) -> StartError:
        exit_code = worker.sentinel.exit_code
        return start_error(self._name, worker, exit_code, self.launcher.starter.hint(exit_code))

    def _replace(self, pool: Pool, slot: Slot, worker: WorkerHandle, trace: str, is_repeated: bool) -> None:
        next_one = "it was leaving"
        # Else it was worn and its replacement exists already, or one too many.
        if not slot.serves or pool.missing() > 0:
            pool.restarts[worker.death_cause()] += slot.serves
            if worker.ready_at:
                delay = pool.delay_after_death(slot, worker, is_repeated)
            else:
                delay = pool.delay_after_failure(slot)
            next_one = f"a new one starts in {self._launch_later(pool, slot, delay):.1f} s"
        how = describe_exit(worker.sentinel.exit_code) + f" ({worker.reason})" * bool(worker.reason)
        message = "worker of %s in flow %s (pid %d) %s; %s%s"
        stack = f"\n{trace}" if trace else ""
        log.error(message, worker.name, self._name, worker.pid, how, next_one, stack, exc_info=worker.failure)
        cause = f": {describe_error(worker.failure)}" if worker.failure is not None else ""
        pool.incidents.note(IncidentKind.DEATH, f"pid {worker.pid}", how + cause)

    def _launch_later(self, pool: Pool, slot: Slot, delay: float) -> float:
        if self._loop is not None:
            slot.restart = self._loop.call_later(max(delay, LEAST_DELAY), self._launch_again, pool, slot)
        return delay

    def _launch_again(self, pool: Pool, slot: Slot) -> None:
        slot.restart = None
        if not slot.serves or pool.missing() > 0:  # the step may have been given fewer workers meanwhile
            self._launch(pool, slot)
