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
from ...step import FlowStep
from ..scheduling.dispatcher import Dispatcher
from ..statistics import WorkerState
from ..system.memory import OutOfMemory
from ..system.pauses import wait_fairly
from ..timing import DEFAULT_TIMING, Timing
from ..wire.failures import decode_error
from ..wire.frames import Kind, ProtocolError, pack
from .group import Remains
from .handle import WorkerLink
from .launcher import Launcher
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
        steps: Its steps, each with its name.
        launcher: Starts a worker.
        dispatcher: Who gets the workers.
        start_timeout: Seconds in which a worker must be ready.
        timing: How long a replacement waits.
    """

    def __init__(
        self,
        name: str,
        steps: list[tuple[str, FlowStep]],
        launcher: Launcher,
        dispatcher: Dispatcher,
        start_timeout: float,
        timing: Timing = DEFAULT_TIMING,
    ) -> None:
        self._name = name
        self._steps = steps
        self._launcher = launcher
        self._dispatcher = dispatcher
        self._start_timeout = start_timeout
        places = [index for index, (_, step) in enumerate(steps) for _ in range(step.nprocs + 1)]
        self._slots = [Slot(step, number, RestartPolicy(timing)) for number, step in enumerate(places, start=1)]
        self._remains = Remains()
        self._recycler = Recycler(steps, self._slots, self._launch, self._on_retired, STOP_TIME)
        self._wears = [not (step.max_tasks is step.max_age is step.max_memory_growth is None) for _, step in steps]
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
                raise start_timeout_error(self._name, self._links(), timeout)
            self._starting.result()
        finally:
            self._starting = None

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Work in another event loop."""
        self.detach()
        self._loop = loop
        for slot in self._slots:
            if slot.link is not None:
                try:
                    self._watch(slot, slot.link)
                except OSError as exc:
                    self._on_failed_launch(slot, exc)
        self._fill()

    def detach(self) -> None:
        """Stop watching the workers; they go on, and what happens is seen when they are watched again."""
        for slot in self._slots:
            if slot.link is not None:
                slot.link.detach()
            slot.cancel_timers()
        self._remains.kill()
        self._loop = None

    async def stop(self) -> None:
        """Have every worker leave; those that do not are terminated, then killed.

        A worker that still has tasks is terminated at once: whoever stops the flow has waited for them already.
        """
        await self._begin_stop()
        for link in self._links():
            if link.batches:
                link.signal(signal.SIGTERM)
            else:
                link.send(pack(Kind.STOP))
        for wait, signum in ((STOP_TIME, signal.SIGTERM), (KILL_AFTER, signal.SIGKILL)):
            if await self._wait_gone(wait):
                await self._remains.wait()
                return
            for link in self._links():
                log.warning("worker of %s (pid %d) did not stop: sending %s", link.name, link.pid, signum.name)
                link.signal(signum)
        await self._wait_gone(KILL_AFTER)
        await self._remains.wait()

    def kill_at_once(self) -> None:
        """Send SIGKILL to every worker and what it has started, without waiting; `kill` or `stop` may follow."""
        self._is_stopping = True
        for link in self._links():
            link.sentinel.signal_group(signal.SIGKILL)
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
        for link in self._links():
            link.close()
        self._remains.kill()

    def forget(self) -> None:
        """Close the descriptors of all workers; in a forked child, whose workers they are not."""
        self._loop = None
        for link in self._links():
            link.forget()

    async def _begin_stop(self) -> None:
        self._is_stopping = True
        for slot in self._slots:
            slot.cancel_timers()
        if self._launches:
            await asyncio.wait(self._launches)
        for link in self._links():
            if link.state is WorkerState.STARTING:
                link.signal(signal.SIGTERM)  # it reads nothing while it loads its model, and has nothing to finish
            link.state = WorkerState.STOPPING

    async def _wait_gone(self, timeout: float) -> bool:
        if not self._links():
            return True
        if self._gone is None:
            self._gone = asyncio.get_running_loop().create_future()
        done, _ = await asyncio.wait([self._gone], timeout=timeout)
        return bool(done)

    def _links(self) -> list[WorkerLink]:
        return [slot.link for slot in self._slots if slot.link is not None]

    def lacking(self) -> int:
        """Count the workers that are not there and that no launch under way and no timer will bring; 0 as a rule."""
        return sum(self._missing(index) for index in range(len(self._steps)))

    def _fill(self) -> None:
        """Launch the workers that are missing and not on their way."""
        for index in range(len(self._steps)):
            free = [slot for slot in self._slots if slot.step == index and slot.is_free]
            for slot in free[: self._missing(index)]:
                self._launch(slot)

    def _missing(self, index: int) -> int:
        """Count the workers that a step lacks and that are not on their way."""
        slots = [slot for slot in self._slots if slot.step == index]
        coming = [slot for slot in slots if slot.replaces is not None]
        leaving = [slot for slot in slots if slot.link is not None and slot.link.state in LEAVING]
        taken = sum(not slot.is_free for slot in slots) - len(coming) - len(leaving)
        return max(0, self._steps[index][1].nprocs - taken)

    def _launch(self, slot: Slot) -> None:
        slot.restart = None
        if self._is_stopping or self._loop is None:
            return
        try:
            link, theirs = self._launcher.prepare(slot, self._on_frames, self._on_exit)
        except Exception as exc:
            self._on_failed_launch(slot, exc)
            return
        slot.link = link
        slot.wear = Wear(self._steps[slot.step][1])
        desk = self._dispatcher.desks[slot.step]
        desk.links.append(link)
        desk.expect_worker(link.launched_at + desk.load_time, link.launched_at)
        launch = self._loop.create_task(self._start_process(slot, link, theirs))
        self._launches.add(launch)
        launch.add_done_callback(self._launches.discard)

    async def _start_process(self, slot: Slot, link: WorkerLink, theirs: socket.socket) -> None:
        try:
            await self._launcher.start(link, theirs)
            if self._loop is asyncio.get_running_loop():
                self._watch(slot, link)
            elif self._loop is not None:  # another one has taken over meanwhile, without having seen a process
                self._loop.call_soon_threadsafe(self._watch, slot, link)
        except BaseException as exc:
            if isinstance(exc, Exception) or not link.pid:
                self._on_failed_launch(slot, exc)
            if not isinstance(exc, Exception):
                raise  # the event loop ends; another one finds a process, or an empty slot

    def _watch(self, slot: Slot, link: WorkerLink) -> None:
        if self._loop is None or link.state is WorkerState.DEAD:
            return
        link.attach(self._loop)
        if self._starting is None:  # else the time for the start of all workers is the limit
            link.limit_start(self._start_timeout)
        if link.state is WorkerState.READY:
            self._recycler.watch_age(slot, self._loop)

    def _on_failed_launch(self, slot: Slot, failure: BaseException) -> None:
        """Note that no process was made, or that it cannot be watched; what there is of it is ended."""
        step = self._steps[slot.step][0]
        link, slot.link = slot.link, None
        try:
            if link is not None:
                link.state = WorkerState.DEAD
                link.sentinel.abort()
                self._remains.add(link.pid)
                self._dispatcher.remove(link, WorkerDied(step, link.pid, link.sentinel.exit_code))
                link.close()
        finally:
            if self._is_stopping:
                self._note_gone()
            elif self._starting is not None:
                if not self._starting.done():
                    self._starting.set_exception(launch_error(self._name, step, failure))
            else:
                self._dispatcher.desks[slot.step].failed_launches += 1
                delay = self._plan_after_failure(slot)
                # Not the exception itself: handlers keep records, and its traceback holds the whole flow.
                what = f"{type(failure).__name__}: {failure}"
                message = "a worker of %s in flow %s could not be started (%s); it is tried again in %.1f s"
                log.error(message, step, self._name, what, delay)

    def _on_frames(self, link: WorkerLink, frames: list[tuple[Kind, bytes]]) -> None:
        try:
            for kind, payload in frames:
                if kind is Kind.FAILED:
                    link.failure = decode_error(payload, f"on_start of {link.name} in flow {self._name}")
                    continue
                self._dispatcher.receive(link, kind, payload)
                if kind is Kind.READY and link.state is WorkerState.READY:
                    self._on_ready(link)
        except ProtocolError as exc:
            link.distrust(exc)
        except Exception as exc:
            # Bytes that look like a frame may lead anywhere. A defect of this package must not pass unseen, though; its
            # traceback goes to the log as text, because handlers keep records.
            text = traceback.format_exc()
            log.error("a message from %s in flow %s (pid %d) has failed: %s", link.name, self._name, link.pid, text)
            link.distrust(exc)
        if link.state is WorkerState.READY:
            if self._wears[link.step]:
                self._recycler.check(self._slot_of(link))
        elif link.state is WorkerState.RETIRING and not link.batches:
            self._recycler.dismiss(link)

    def _on_ready(self, link: WorkerLink) -> None:
        desk = self._dispatcher.desks[link.step]
        desk.note_load(link.ready_at - link.launched_at)
        slot = self._slot_of(link)
        if self._loop is not None:
            self._recycler.watch_age(slot, self._loop)
        self._recycler.note_ready(slot)
        if self._starting is not None and not self._starting.done():
            ready = sum(other.state is WorkerState.READY for other in self._links())
            if ready == sum(step.nprocs for _, step in self._steps):
                self._starting.set_result(None)

    def _on_retired(self, step: int) -> None:
        self._dispatcher.desks[step].recycled += 1
        self._dispatcher.note_workers(step)

    def _slot_of(self, link: WorkerLink) -> Slot:
        return next(slot for slot in self._slots if slot.link is link)

    def _on_exit(self, link: WorkerLink) -> None:
        exit_code = link.sentinel.exit_code
        state, link.state = link.state, WorkerState.DEAD
        slot = self._slot_of(link)
        trace, is_repeated = "", False
        with contextlib.ExitStack() as stack:  # whatever fails: a slot is never left with a worker that is gone
            stack.callback(lambda: self._on_empty(slot, link, state, trace, is_repeated))
            stack.callback(self._remains.add, link.pid)
            stack.callback(link.close)
            self._on_frames(link, link.drain())  # what it had finished counts
            if not link.reason and exit_code == -signal.SIGKILL and self._out_of_memory.happened():
                link.reason = "the kernel was out of memory"
            error = WorkerDied(link.name, link.pid, exit_code, link.reason)
            is_repeated = self._dispatcher.remove(link, error)
            trace = link.trace()

    def _on_empty(self, slot: Slot, link: WorkerLink, state: WorkerState, trace: str, is_repeated: bool) -> None:
        """Decide what comes after a worker that is gone."""
        slot.cancel_timers()
        slot.link = None
        self._recycler.note_gone(link)
        if self._is_stopping:
            self._note_gone()
        elif self._starting is not None:
            if not self._starting.done():
                exit_code = link.sentinel.exit_code
                self._starting.set_exception(start_error(self._name, link, exit_code, self._launcher.hint(exit_code)))
        else:
            if state is not WorkerState.STOPPING:
                self._replace(slot, link, trace, is_repeated)
            self._recycler.check_others(link.step)
            self._fill()

    def _note_gone(self) -> None:
        if self._gone is not None and not self._gone.done() and not self._links():
            self._gone.set_result(None)

    def _replace(self, slot: Slot, link: WorkerLink, trace: str, is_repeated: bool) -> None:
        desk = self._dispatcher.desks[slot.step]
        delay = 0.0
        if self._missing(slot.step) > 0:  # else it was worn, and its replacement is there or on the way
            desk.restarts += 1
            delay = self._plan_after_death(slot, link, is_repeated) if link.ready_at else self._plan_after_failure(slot)
        how = describe_exit(link.sentinel.exit_code) + f" ({link.reason})" * bool(link.reason)
        message = "worker of %s in flow %s (pid %d) %s; a new one starts in %.1f s%s"
        stack = f"\n{trace}" if trace else ""
        log.error(message, link.name, self._name, link.pid, how, delay, stack, exc_info=link.failure)

    def _plan_after_death(self, slot: Slot, link: WorkerLink, is_repeated: bool) -> float:
        now = time.monotonic()
        desk = self._dispatcher.desks[slot.step]
        life = Life(now - link.launched_at, now - link.ready_at, desk.quickest_load, link.handled > 0, is_repeated)
        delay = slot.policy.after_death(life)
        desk.note_death(life, now)
        return self._plan(slot, delay)

    def _plan_after_failure(self, slot: Slot) -> float:
        desk = self._dispatcher.desks[slot.step]
        delay = slot.policy.after_failure()
        if not desk.ready_links():  # a step whose other workers serve is not broken
            desk.budget.note_failure(time.monotonic())
        return self._plan(slot, delay)

    def _plan(self, slot: Slot, delay: float) -> float:
        """Set the timer for the next launch in a slot; return the seconds until then."""
        now = time.monotonic()
        desk = self._dispatcher.desks[slot.step]
        if desk.budget.is_spent(now):
            delay = max(delay, slot.policy.longest_wait())
        desk.expect_worker(now + delay + desk.load_time, now)
        if self._loop is not None:
            slot.restart = self._loop.call_later(delay, self._launch, slot)
        return delay
