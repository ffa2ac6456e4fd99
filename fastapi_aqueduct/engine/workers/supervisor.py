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
import socket
import time
import traceback

from ...exceptions import WorkerDied, describe_exit
from ...logger import log
from ..statistics import WorkerState
from ..system.fair_timer import wait_fairly
from ..system.process_memory import OutOfMemory
from ..timing import DEFAULT_TIMING, Timing
from ..wire.failures import decode_error
from ..wire.frames import Kind, ProtocolError, pack
from .group import Remains
from .handle import WorkerHandle
from .launcher import Launcher
from .pool import Pool
from .recycler import Recycler
from .recycling import Wear
from .restart import Life, RestartPolicy
from .slot import Slot
from .start_errors import launch_error, start_error, start_timeout_error

STOP_TIME = 3.0
"""Seconds from being told to stop until an idle worker gets SIGTERM; `on_stop` runs in them. With the 25 that a
graceful stop waits for tasks by default, all is over before Kubernetes kills after 30."""

KILL_AFTER = 1.0
"""Seconds from SIGTERM to SIGKILL, and from SIGKILL until nothing more is expected."""

LEAVING = (WorkerState.RETIRING, WorkerState.STOPPING)
"""States of a worker that has been replaced."""


class Supervisor:
    """Starts workers, sees them die, replaces them, and stops them.

    Args:
        name: Name of the flow.
        pools: The workers of its steps.
        launcher: Starts a worker.
        start_timeout: Seconds in which a worker must be ready.
        timing: How long a replacement waits.
    """

    def __init__(
        self,
        name: str,
        pools: list[Pool],
        launcher: Launcher,
        start_timeout: float,
        timing: Timing = DEFAULT_TIMING,
    ) -> None:
        self._name = name
        self._pools = pools
        self._launcher = launcher
        self._start_timeout = start_timeout
        places = [pool.index for pool in pools for _ in range(pool.step.nprocs + 1)]
        self._slots = [Slot(step, number, RestartPolicy(timing)) for number, step in enumerate(places, start=1)]
        self._remains = Remains()
        self._recycler = Recycler(pools, self._slots, self._launch, STOP_TIME)
        self._out_of_memory = OutOfMemory()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting: asyncio.Future[None] | None = None
        self._gone: asyncio.Future[None] | None = None
        self._launches: set[asyncio.Task[None]] = set()
        self._is_stopping = False

    async def start(self, timeout: float) -> None:
        """Start every worker and wait until all are ready.

        Raises:
            StartError: A worker failed; the caller stops the others. Its cause is the worker's own exception.
            StartTimeout: They were not ready in time.
            ConfigurationError: A handler or condition cannot be pickled.
        """
        self._launcher.check()
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._starting = loop.create_future()
        self._fill()
        try:
            if not await wait_fairly(self._starting, timeout):
                raise start_timeout_error(self._name, self._workers(), timeout)
            self._starting.result()
        finally:
            self._starting = None

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Work in another event loop."""
        self.detach()
        self._loop = loop
        for slot in self._slots:
            if slot.worker is not None:
                try:
                    self._watch(slot, slot.worker)
                except OSError as exc:
                    self._on_failed_launch(slot, exc)
        self._fill()

    def detach(self) -> None:
        """Stop watching the workers; they go on, and what happens is seen when they are watched again."""
        for slot in self._slots:
            if slot.worker is not None:
                slot.worker.detach()
            slot.cancel_timers()
        self._remains.kill()
        self._loop = None

    async def stop(self) -> None:
        """Have every worker leave; those that do not are terminated, then killed.

        A worker that still has tasks is terminated at once: whoever stops the flow has waited for them already.
        """
        await self._begin_stop()
        for worker in self._workers():
            if worker.in_flight:
                worker.signal(signal.SIGTERM)
            else:
                worker.send(pack(Kind.STOP))
        for wait, signum in ((STOP_TIME, signal.SIGTERM), (KILL_AFTER, signal.SIGKILL)):
            if await self._wait_gone(wait):
                await self._remains.wait()
                return
            for worker in self._workers():
                log.warning("worker of %s (pid %d) did not stop: sending %s", worker.name, worker.pid, signum.name)
                worker.signal(signum)
        await self._wait_gone(KILL_AFTER)
        await self._remains.wait()

    def kill_at_once(self) -> None:
        """Send SIGKILL to every worker and what it has started, without waiting; `kill` or `stop` may follow."""
        self._is_stopping = True
        for worker in self._workers():
            worker.sentinel.signal_group(signal.SIGKILL)
        self._remains.kill()

    async def kill(self) -> None:
        """End every worker at once."""
        await self._begin_stop()
        self.kill_at_once()
        await self._wait_gone(KILL_AFTER)
        self._remains.kill()

    def let_go(self) -> None:
        """Close the channels without waiting, at the end of the interpreter: the workers see it and exit.

        No signal: a worker that it ends has no time for `on_stop`, nor to end the processes it has made.
        """
        self._is_stopping = True
        for worker in self._workers():
            worker.close()
        self._remains.kill()

    def forget(self) -> None:
        """Close the descriptors of all workers; in a forked child, whose workers they are not."""
        self._loop = None
        for worker in self._workers():
            worker.forget()

    async def _begin_stop(self) -> None:
        self._is_stopping = True
        for slot in self._slots:
            slot.cancel_timers()
        if self._launches:
            await asyncio.wait(self._launches)
        for worker in self._workers():
            if worker.state is WorkerState.STARTING:
                worker.signal(signal.SIGTERM)  # it reads nothing while it loads its model, and has nothing to finish
            worker.state = WorkerState.STOPPING

    async def _wait_gone(self, timeout: float) -> bool:
        if not self._workers():
            return True
        if self._gone is None:
            self._gone = asyncio.get_running_loop().create_future()
        done, _ = await asyncio.wait([self._gone], timeout=timeout)
        return bool(done)

    def _workers(self) -> list[WorkerHandle]:
        return [slot.worker for slot in self._slots if slot.worker is not None]

    def lacking(self) -> int:
        """Count the workers that are not there and that no launch under way and no timer will bring; 0 as a rule."""
        return sum(map(self._missing, self._pools))

    def _fill(self) -> None:
        """Launch the workers that are missing and not on their way."""
        for pool in self._pools:
            free = [slot for slot in self._slots if slot.step == pool.index and slot.is_free]
            for slot in free[: self._missing(pool)]:
                self._launch(slot)

    def _missing(self, pool: Pool) -> int:
        """Count the workers that a step lacks and that are not on their way."""
        slots = [slot for slot in self._slots if slot.step == pool.index]
        coming = [slot for slot in slots if slot.replaces is not None]
        leaving = [slot for slot in slots if slot.worker is not None and slot.worker.state in LEAVING]
        taken = sum(not slot.is_free for slot in slots) - len(coming) - len(leaving)
        return max(0, pool.step.nprocs - taken)

    def _launch(self, slot: Slot) -> None:
        slot.restart = None
        if self._is_stopping or self._loop is None:
            return
        try:
            worker, theirs = self._launcher.prepare(slot, self._on_frames, self._on_exit)
        except Exception as exc:
            self._on_failed_launch(slot, exc)
            return
        slot.worker = worker
        pool = self._pools[slot.step]
        slot.wear = Wear(pool.step)
        pool.add(worker)
        launch = self._loop.create_task(self._start_process(slot, worker, theirs))
        self._launches.add(launch)
        launch.add_done_callback(self._launches.discard)

    async def _start_process(self, slot: Slot, worker: WorkerHandle, theirs: socket.socket) -> None:
        try:
            await self._launcher.start(worker, theirs)
            if self._loop is asyncio.get_running_loop():
                self._watch(slot, worker)
            elif self._loop is not None:  # another one has taken over meanwhile, without having seen a process
                self._loop.call_soon_threadsafe(self._watch, slot, worker)
        except BaseException as exc:
            if isinstance(exc, Exception) or not worker.pid:
                self._on_failed_launch(slot, exc)
            if not isinstance(exc, Exception):
                raise  # the event loop ends; another one finds a process, or an empty slot

    def _watch(self, slot: Slot, worker: WorkerHandle) -> None:
        if self._loop is None or worker.state is WorkerState.DEAD:
            return
        worker.attach(self._loop)
        if self._starting is None:  # else the time for the start of all workers is the limit
            worker.limit_start(self._start_timeout)
        if worker.state is WorkerState.READY:
            self._recycler.watch_age(slot, self._loop)

    def _on_failed_launch(self, slot: Slot, failure: BaseException) -> None:
        """Note that no process was made, or that it cannot be watched; what there is of it is ended."""
        pool = self._pools[slot.step]
        step = pool.name
        worker, slot.worker = slot.worker, None
        try:
            if worker is not None:
                worker.state = WorkerState.DEAD
                worker.sentinel.abort()
                self._remains.add(worker.pid)
                pool.remove(worker, WorkerDied(step, worker.pid, worker.sentinel.exit_code))
                worker.close()
        finally:
            if self._is_stopping:
                self._note_gone()
            elif self._starting is not None:
                if not self._starting.done():
                    self._starting.set_exception(launch_error(self._name, step, failure))
            else:
                pool.failed_launches += 1
                delay = self._plan_after_failure(slot)
                # Not the exception itself: handlers keep tickets, and its traceback holds the whole flow.
                what = f"{type(failure).__name__}: {failure}"
                message = "a worker of %s in flow %s could not be started (%s); it is tried again in %.1f s"
                log.error(message, step, self._name, what, delay)

    def _on_frames(self, worker: WorkerHandle, frames: list[tuple[Kind, bytes]]) -> None:
        pool = self._pools[worker.step]
        observer = pool.observer
        try:
            for kind, payload in frames:
                if kind is Kind.FAILED:
                    worker.failure = decode_error(payload, f"on_start of {worker.name} in flow {self._name}")
                    continue
                if kind is not Kind.READY:
                    observer.receive(worker, kind, payload)
                elif worker.state is WorkerState.READY:
                    self._on_ready(worker)
        except ProtocolError as exc:
            worker.distrust(exc)
        except Exception as exc:
            # Bytes that look like a frame may lead anywhere. A defect of this package must not pass unseen, though; its
            # traceback goes to the log as text, because handlers keep tickets.
            text = traceback.format_exc()
            log.error("a message from %s in flow %s (pid %d) has failed: %s", worker.name, self._name, worker.pid, text)
            worker.distrust(exc)
        if worker.state is WorkerState.READY:
            if pool.wears:
                self._recycler.check(self._slot_of(worker))
        elif worker.state is WorkerState.RETIRING and not worker.in_flight:
            self._recycler.dismiss(worker)

    def _on_ready(self, worker: WorkerHandle) -> None:
        self._pools[worker.step].note_ready(worker)
        slot = self._slot_of(worker)
        if self._loop is not None:
            self._recycler.watch_age(slot, self._loop)
        self._recycler.note_ready(slot)
        if self._starting is not None and not self._starting.done():
            ready = sum(other.state is WorkerState.READY for other in self._workers())
            if ready == sum(pool.step.nprocs for pool in self._pools):
                self._starting.set_result(None)

    def _slot_of(self, worker: WorkerHandle) -> Slot:
        return next(slot for slot in self._slots if slot.worker is worker)

    def _on_exit(self, worker: WorkerHandle) -> None:
        exit_code = worker.sentinel.exit_code
        state, worker.state = worker.state, WorkerState.DEAD
        slot = self._slot_of(worker)
        trace, is_repeated = "", False
        with contextlib.ExitStack() as stack:  # whatever fails: a slot is never left with a worker that is gone
            stack.callback(lambda: self._on_empty(slot, worker, state, trace, is_repeated))
            stack.callback(self._remains.add, worker.pid)
            stack.callback(worker.close)
            self._on_frames(worker, worker.drain())  # what it had finished counts
            if not worker.reason and exit_code == -signal.SIGKILL and self._out_of_memory.happened():
                worker.reason = "the kernel was out of memory"
            error = WorkerDied(worker.name, worker.pid, exit_code, worker.reason)
            is_repeated = self._pools[slot.step].remove(worker, error)
            trace = worker.trace()

    def _on_empty(self, slot: Slot, worker: WorkerHandle, state: WorkerState, trace: str, is_repeated: bool) -> None:
        """Decide what comes after a worker that is gone."""
        slot.cancel_timers()
        slot.worker = None
        self._recycler.note_gone(worker)
        if self._is_stopping:
            self._note_gone()
        elif self._starting is not None:
            if not self._starting.done():
                exit_code = worker.sentinel.exit_code
                self._starting.set_exception(start_error(self._name, worker, exit_code, self._launcher.hint(exit_code)))
        else:
            if state is not WorkerState.STOPPING:
                self._replace(slot, worker, trace, is_repeated)
            self._recycler.check_others(worker.step)
            self._fill()

    def _note_gone(self) -> None:
        if self._gone is not None and not self._gone.done() and not self._workers():
            self._gone.set_result(None)

    def _replace(self, slot: Slot, worker: WorkerHandle, trace: str, is_repeated: bool) -> None:
        pool = self._pools[slot.step]
        delay = 0.0
        if self._missing(pool) > 0:  # else it was worn, and its replacement is there or on the way
            pool.restarts += 1
            if worker.ready_at:
                delay = self._plan_after_death(slot, worker, is_repeated)
            else:
                delay = self._plan_after_failure(slot)
        how = describe_exit(worker.sentinel.exit_code) + f" ({worker.reason})" * bool(worker.reason)
        message = "worker of %s in flow %s (pid %d) %s; a new one starts in %.1f s%s"
        stack = f"\n{trace}" if trace else ""
        log.error(message, worker.name, self._name, worker.pid, how, delay, stack, exc_info=worker.failure)

    def _plan_after_death(self, slot: Slot, worker: WorkerHandle, is_repeated: bool) -> float:
        now = time.monotonic()
        pool = self._pools[slot.step]
        age, lifetime = now - worker.launched_at, now - worker.ready_at
        life = Life(age, lifetime, pool.quickest_load, worker.in_flight.handled > 0, is_repeated)
        delay = slot.policy.after_death(life)
        pool.note_death(life, now)
        return self._plan(slot, delay)

    def _plan_after_failure(self, slot: Slot) -> float:
        pool = self._pools[slot.step]
        delay = slot.policy.after_failure()
        if not pool.ready_workers():  # a step whose other workers serve is not broken
            pool.budget.note_failure(time.monotonic())
        return self._plan(slot, delay)

    def _plan(self, slot: Slot, delay: float) -> float:
        """Set the timer for the next launch in a slot; return the seconds until then."""
        now = time.monotonic()
        pool = self._pools[slot.step]
        if pool.budget.is_spent(now):
            delay = max(delay, slot.policy.longest_wait())
        pool.expect_worker(now + delay + pool.load_time, now)
        if self._loop is not None:
            slot.restart = self._loop.call_later(delay, self._launch, slot)
        return delay
