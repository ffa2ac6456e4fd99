"""Keeps the worker processes of a flow alive.

    launch ─▶ STARTING ─▶ READY ─▶ (dead) ─▶ wait ─▶ launch ...
                  │         └─▶ (worn) ─▶ launch another ─▶ that one READY ─▶ RETIRING ─▶ STOPPING
                  └─▶ dead during the first start: the start fails with the worker's own traceback
"""

from __future__ import annotations

import asyncio
import signal
import socket
import time

from ..exceptions import StartError, StartTimeout, WorkerDied, describe_exit
from ..logger import log
from ..step import FlowStep
from .dispatcher import Dispatcher
from .failures import decode_error
from .frames import Kind, ProtocolError, pack
from .group import Remains
from .importing import NotImportable, explain
from .launcher import Launcher
from .link import WorkerLink
from .memory import OutOfMemory
from .recycling import Wear
from .slot import Slot
from .statistics import WorkerState

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
    """

    def __init__(
        self,
        name: str,
        steps: list[tuple[str, FlowStep]],
        launcher: Launcher,
        dispatcher: Dispatcher,
        start_timeout: float,
    ) -> None:
        self._name = name
        self._steps = steps
        self._launcher = launcher
        self._dispatcher = dispatcher
        self._start_timeout = start_timeout
        places = [index for index, (_, step) in enumerate(steps) for _ in range(step.nprocs + 1)]
        self._slots = [Slot(step, number) for number, step in enumerate(places, start=1)]
        self._remains = Remains()
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
            await asyncio.wait_for(asyncio.shield(self._starting), timeout)
        except TimeoutError:
            raise self._start_timeout_error(timeout) from None
        finally:
            self._starting = None

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Work in another event loop."""
        self.detach()
        self._loop = loop
        for slot in self._slots:
            if slot.link is not None:
                self._watch(slot.link)
                self._watch_age(slot, slot.link)
        if not self._is_stopping:
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
            link.signal_group(signal.SIGKILL)
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

    def _fill(self) -> None:
        """Launch what is missing in each step."""
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
        assert self._loop is not None
        slot.restart = None
        link, theirs = self._launcher.prepare(slot, self._on_frames, self._on_exit)
        slot.link = link
        slot.wear = Wear(self._steps[slot.step][1])
        desk = self._dispatcher.desks[slot.step]
        desk.links.append(link)
        desk.expected_ready_at = link.launched_at + desk.load_time
        launch = self._loop.create_task(self._start_process(link, theirs))
        self._launches.add(launch)
        launch.add_done_callback(self._launches.discard)

    async def _start_process(self, link: WorkerLink, theirs: socket.socket) -> None:
        try:
            await self._launcher.start(link, theirs)
        except Exception as exc:
            link.failure = exc
            self._on_exit(link)
            return
        if self._loop is asyncio.get_running_loop():
            self._watch(link)
        elif self._loop is not None:  # another one has taken over meanwhile, without having seen a process
            self._loop.call_soon_threadsafe(self._watch, link)

    def _watch(self, link: WorkerLink) -> None:
        if self._loop is None or link.state is WorkerState.DEAD:
            return
        link.attach(self._loop)
        if link.state is WorkerState.STARTING:
            remaining = link.launched_at + self._start_timeout - time.monotonic()
            link.start_timer = self._loop.call_later(max(0.0, remaining), self._end_slow_start, link)

    def _watch_age(self, slot: Slot, link: WorkerLink) -> None:
        max_age = self._steps[slot.step][1].max_age
        if max_age is not None and self._loop is not None and link.state is WorkerState.READY:
            remaining = link.ready_at + max_age - time.monotonic()
            slot.age = self._loop.call_later(max(0.0, remaining), self._check_wear, link)

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
            log.error("worker of %s (pid %d) sent what makes no sense and is killed: %s", link.name, link.pid, exc)
            link.signal(signal.SIGKILL)
        if link.state is WorkerState.READY:
            self._check_wear(link)
        elif link.state is WorkerState.RETIRING and not link.batches:
            self._dismiss(link)

    def _on_ready(self, link: WorkerLink) -> None:
        desk = self._dispatcher.desks[link.step]
        desk.load_time = link.ready_at - link.launched_at
        desk.budget.note_load(desk.load_time)
        slot = self._slot_of(link)
        self._watch_age(slot, link)
        if slot.replaces is not None:
            worn, slot.replaces = slot.replaces, None
            self._retire(worn)
        starting = self._starting
        if starting is not None and not starting.done() and self._all_ready():
            starting.set_result(None)

    def _all_ready(self) -> bool:
        wanted = sum(step.nprocs for _, step in self._steps)
        return sum(link.state is WorkerState.READY for link in self._links()) >= wanted

    def _slot_of(self, link: WorkerLink) -> Slot:
        return next(slot for slot in self._slots if slot.link is link)

    def _check_wear(self, link: WorkerLink) -> None:
        step = self._steps[link.step][1]
        if self._is_stopping or (step.max_tasks is step.max_age is step.max_memory_growth is None):
            return
        reason = self._slot_of(link).wear_of(link, time.monotonic())
        busy = any(other.replaces is not None for other in self._slots if other.step == link.step)
        if reason and link.state is WorkerState.READY and not busy:
            spare = next((other for other in self._slots if other.step == link.step and other.is_free), None)
            if spare is not None:
                log.info("worker of %s (pid %d) will be replaced: %s", link.name, link.pid, reason)
                spare.replaces = link
                self._launch(spare)

    def _retire(self, link: WorkerLink) -> None:
        if link.state is not WorkerState.READY:
            return
        link.state = WorkerState.RETIRING
        self._dispatcher.desks[link.step].recycled += 1
        self._dispatcher.note_workers(link.step)
        if not link.batches:
            self._dismiss(link)

    def _dismiss(self, link: WorkerLink) -> None:
        link.state = WorkerState.STOPPING
        link.send(pack(Kind.STOP))
        link.kill_later(STOP_TIME)

    def _on_exit(self, link: WorkerLink) -> None:
        exit_code = link.exit_code
        state, link.state = link.state, WorkerState.DEAD
        self._on_frames(link, link.drain())  # what it had finished counts
        if not link.reason and exit_code == -signal.SIGKILL and self._out_of_memory.happened():
            link.reason = "the kernel was out of memory"
        self._dispatcher.remove(link, WorkerDied(link.name, link.pid, exit_code, link.reason))
        slot = self._slot_of(link)
        slot.cancel_timers()
        slot.link = None
        if link.pid:
            self._remains.add(link.pid)
        trace = link.trace()
        link.close()
        if self._is_stopping:
            if self._gone is not None and not self._gone.done() and not self._links():
                self._gone.set_result(None)
        elif self._starting is not None:
            if not self._starting.done():
                self._starting.set_exception(self._start_error(link, exit_code))
        elif state is not WorkerState.STOPPING:
            self._replace(slot, link, exit_code, trace)
        else:
            for other in self._links():  # one at a time: now it may be another's turn
                if other.step == link.step:
                    self._check_wear(other)

    def _replace(self, slot: Slot, link: WorkerLink, exit_code: int | None, trace: str) -> None:
        now = time.monotonic()
        desk = self._dispatcher.desks[slot.step]
        desk.budget.note_death(now)
        delay = 0.0
        for other in self._slots:
            if other.replaces is link:
                other.replaces = None
        if self._missing(slot.step) > 0:  # else it was worn, and its replacement is there or on the way
            delay = slot.policy.delay(now - link.ready_at if link.ready_at else 0.0)
            if desk.budget.is_spent(now):
                delay = slot.policy.longest_delay()
            desk.expected_ready_at = now + delay + desk.load_time
            desk.restarts += 1
            if self._loop is not None:
                slot.restart = self._loop.call_later(delay, self._launch, slot)
        log.error(
            "worker of %s in flow %s (pid %d) %s%s; a new one starts in %.1f s%s",
            link.name,
            self._name,
            link.pid,
            describe_exit(exit_code),
            f" ({link.reason})" if link.reason else "",
            delay,
            f"\n{trace}" if trace else "",
            exc_info=link.failure,
        )

    def _end_slow_start(self, link: WorkerLink) -> None:
        if link.state is WorkerState.STARTING and self._starting is None:
            link.kill(f"it was not ready in start_timeout={self._start_timeout:g} s")

    def _start_error(self, link: WorkerLink, exit_code: int | None) -> StartError:
        where = f"a worker of {link.name} in flow {self._name}"
        if link.pid:
            where += f" (pid {link.pid})"
        if link.failure is None:
            message = f"{where} {describe_exit(exit_code)} before it was ready{self._launcher.hint(exit_code)}"
        elif isinstance(link.failure, NotImportable):
            message = f"{where} cannot work: {explain(link.failure)}"
        elif not link.pid:
            message = f"{where} could not be started: {type(link.failure).__name__}: {link.failure}"
        else:
            message = f"{where} failed in on_start: {type(link.failure).__name__}: {link.failure}"
        error = StartError(message, step=link.name, pid=link.pid or None, exit_code=exit_code)
        error.__cause__ = link.failure
        return error

    def _start_timeout_error(self, timeout: float) -> StartTimeout:
        slow = [link for link in self._links() if link.state is not WorkerState.READY]
        names = ", ".join(f"{link.name} (pid {link.pid})" for link in slow)
        return StartTimeout(
            f"flow {self._name} was not ready in {timeout:g} s; still in on_start: {names}; "
            "a model that loads longer needs a larger start_timeout",
            step=slow[0].name if slow else "",
            pid=slow[0].pid if slow else None,
        )
