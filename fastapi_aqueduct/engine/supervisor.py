"""Keeps the worker processes of a flow alive.

    launch ─▶ STARTING ─▶ READY ─▶ (dead) ─▶ wait ─▶ launch ...
                  └─▶ dead during the first start: the start fails with the worker's own traceback
"""

from __future__ import annotations

import asyncio
import pickle
import signal
import socket
import time
from dataclasses import dataclass

from ..exceptions import ConfigurationError, StartError, StartTimeout, describe_exit
from ..logger import log
from ..step import FlowStep
from .arena import Layout
from .bootstrap import pack_prelude
from .channel import make_pair
from .codec import decode_error
from .dispatcher import Dispatcher
from .frames import Kind, ProtocolError, pack
from .ledger import Ledger
from .link import WorkerLink
from .process import StartMethod, start_process, thread_environment
from .restart import RestartPolicy
from .statistics import WorkerState
from .worker import Setup

TERMINATE_AFTER = 5.0
"""Seconds from being told to stop until a worker gets SIGTERM."""

KILL_AFTER = 1.0
"""Seconds from SIGTERM to SIGKILL."""


@dataclass
class Slot:
    """A place for one worker; the processes in it come and go.

    Attributes:
        step: Index of the step.
        region: The number of the region its worker allocates in.
        policy: When a dead worker is replaced.
        link: The worker now in it.
        restart: The replacement that is waited for.
    """

    step: int
    region: int
    policy: RestartPolicy
    link: WorkerLink | None = None
    restart: asyncio.TimerHandle | None = None


class Supervisor:
    """Starts workers, sees them die, replaces them, and stops them.

    Args:
        name: Name of the flow.
        steps: Its steps, each with its name.
        method: How processes are started.
        memory_fd: Descriptor of the shared memory.
        layout: How it is divided.
        ledger: Who holds which block.
        dispatcher: Who gets the workers.
        start_timeout: Seconds in which a worker must be ready.
    """

    def __init__(
        self,
        name: str,
        steps: list[tuple[str, FlowStep]],
        method: StartMethod,
        memory_fd: int,
        layout: Layout,
        ledger: Ledger,
        dispatcher: Dispatcher,
        start_timeout: float,
    ) -> None:
        self._name = name
        self._steps = steps
        self._method = method
        self._memory_fd = memory_fd
        self._layout = layout
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._start_timeout = start_timeout
        places = [index for index, (_, step) in enumerate(steps) for _ in range(step.nprocs)]
        self._slots = [Slot(step, number, RestartPolicy()) for number, step in enumerate(places, start=1)]
        self._environment = thread_environment(len(self._slots))
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting: asyncio.Future[None] | None = None
        self._launches: set[asyncio.Task[None]] = set()
        self._gone: asyncio.Future[None] | None = None
        self._is_stopping = False

    async def start(self, timeout: float) -> None:
        """Start every worker and wait until all are ready.

        Raises:
            StartError: A worker failed; all others are stopped. Its cause is the worker's own exception.
            StartTimeout: They were not ready in time.
            ConfigurationError: A handler or condition cannot be pickled.
        """
        self._check_picklable()
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._starting = loop.create_future()
        for slot in self._slots:
            self._launch(slot)
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
                slot.link.attach(loop)
            elif not self._is_stopping:
                self._launch(slot)

    def detach(self) -> None:
        """Stop watching the workers; they go on, and what happens is seen when they are watched again."""
        for slot in self._slots:
            if slot.link is not None:
                slot.link.detach()
            if slot.restart is not None:
                slot.restart.cancel()
                slot.restart = None
        self._loop = None

    async def stop(self) -> None:
        """Have every worker leave; those that do not are terminated, then killed."""
        self._is_stopping = True
        for slot in self._slots:
            if slot.restart is not None:
                slot.restart.cancel()
        if self._launches:
            await asyncio.wait(self._launches)
        for link in self._links():
            link.state = WorkerState.STOPPING
            link.send(pack(Kind.STOP))
        for wait, signum in ((TERMINATE_AFTER, signal.SIGTERM), (KILL_AFTER, signal.SIGKILL)):
            if await self._wait_gone(wait):
                return
            for link in self._links():
                log.warning("worker of %s (pid %d) did not stop: sending %s", link.name, link.pid, signum.name)
                link.signal(signum)
        await self._wait_gone(TERMINATE_AFTER)

    async def kill(self) -> None:
        """End every worker at once."""
        self._is_stopping = True
        if self._launches:
            await asyncio.wait(self._launches)
        for link in self._links():
            link.state = WorkerState.STOPPING
            link.signal(signal.SIGKILL)
        await self._wait_gone(TERMINATE_AFTER)

    def let_go(self) -> None:
        """Close the channels without waiting, at the end of the interpreter: the workers see it and exit."""
        self._is_stopping = True
        for link in self._links():
            link.close()
            link.signal(signal.SIGTERM)

    def _links(self) -> list[WorkerLink]:
        return [slot.link for slot in self._slots if slot.link is not None]

    async def _wait_gone(self, timeout: float) -> bool:
        if not self._links():
            return True
        self._gone = asyncio.get_running_loop().create_future()
        done, _ = await asyncio.wait([self._gone], timeout=timeout)
        self._gone = None
        return bool(done)

    def _launch(self, slot: Slot) -> None:
        assert self._loop is not None
        slot.restart = None
        name = self._steps[slot.step][0]
        ours, theirs = make_pair()
        link = slot.link = WorkerLink(slot.step, name, slot.region, ours, self._on_frames, self._on_exit)
        self._dispatcher.desks[slot.step].links.append(link)
        link.send(pack_prelude() + pack(Kind.SETUP, self._setup(slot)))
        launch = self._loop.create_task(self._start_process(slot, link, theirs))
        self._launches.add(launch)
        launch.add_done_callback(self._launches.discard)

    async def _start_process(self, slot: Slot, link: WorkerLink, theirs: socket.socket) -> None:
        label = f"{self._name}:{link.name}"
        try:
            process = await asyncio.to_thread(
                start_process, self._method, theirs, self._memory_fd, label, self._environment
            )
        except Exception as exc:  # no descriptor, no memory, or a script that the forkserver cannot import
            link.failure = exc
            self._on_exit(link)
            return
        finally:
            theirs.close()
        link.adopt(process)
        if self._loop is None:
            return
        link.attach(self._loop)
        if link.state is WorkerState.STARTING:
            link.start_timer = self._loop.call_later(self._start_timeout, self._end_slow_start, link)

    def _setup(self, slot: Slot) -> bytes:
        name, step = self._steps[slot.step]
        conditions = [other.handle_condition for _, other in self._steps]
        blocks = self._ledger.pass_on(slot.region)
        return pickle.dumps(Setup(slot.step, name, step.handler, conditions, self._layout, slot.region, blocks), 5)

    def _check_picklable(self) -> None:
        for name, step in self._steps:
            for what, value in (("handler", step.handler), ("handle_condition", step.handle_condition)):
                try:
                    pickle.dumps(value, 5)
                except Exception as exc:
                    raise ConfigurationError(
                        f"the {what} of {name} in flow {self._name} cannot be sent to a worker process: {exc}; "
                        "define it at the top level of a module, and create what cannot be pickled in on_start"
                    ) from exc

    def _on_frames(self, link: WorkerLink, frames: list[tuple[Kind, bytes]]) -> None:
        try:
            for kind, payload in frames:
                if kind is Kind.FAILED:
                    link.failure = decode_error(payload, f"on_start of {link.name} in flow {self._name}")
                else:
                    self._dispatcher.receive(link, kind, payload)
        except ProtocolError as exc:
            log.error("worker of %s (pid %d) sent what makes no sense and is killed: %s", link.name, link.pid, exc)
            link.signal(signal.SIGKILL)
        starting = self._starting
        if starting is not None and not starting.done() and self._all_ready():
            starting.set_result(None)

    def _all_ready(self) -> bool:
        return all(slot.link is not None and slot.link.state is WorkerState.READY for slot in self._slots)

    def _on_exit(self, link: WorkerLink) -> None:
        exit_code = link.exit_code
        self._on_frames(link, link.drain())  # what it had finished counts
        was_stopping = link.state is WorkerState.STOPPING
        link.state = WorkerState.DEAD
        self._dispatcher.remove(link, exit_code)
        link.close()
        slot = next(slot for slot in self._slots if slot.link is link)
        slot.link = None
        if self._is_stopping:
            if self._gone is not None and not self._gone.done() and not self._links():
                self._gone.set_result(None)
        elif self._starting is not None:
            if not self._starting.done():
                self._starting.set_exception(self._start_error(link, exit_code))
        elif not was_stopping:
            self._replace(slot, link, exit_code)

    def _replace(self, slot: Slot, link: WorkerLink, exit_code: int | None) -> None:
        lifetime = time.monotonic() - link.ready_at if link.ready_at else 0.0
        delay = slot.policy.delay(lifetime)
        self._dispatcher.desks[slot.step].restarts += 1
        log.error(
            "worker of %s in flow %s (pid %d) %s; a new one starts in %.1f s",
            link.name,
            self._name,
            link.pid,
            describe_exit(exit_code),
            delay,
            exc_info=link.failure,
        )
        if self._loop is not None:
            slot.restart = self._loop.call_later(delay, self._launch, slot)

    def _end_slow_start(self, link: WorkerLink) -> None:
        if link.state is WorkerState.STARTING and self._starting is None:
            log.error("worker of %s (pid %d) was not ready in %.0f s: killed", link.name, link.pid, self._start_timeout)
            link.signal(signal.SIGKILL)

    def _start_error(self, link: WorkerLink, exit_code: int | None) -> StartError:
        where = f"a worker of {link.name} in flow {self._name} (pid {link.pid})"
        if link.failure is None:
            message = f"{where} {describe_exit(exit_code)} before it was ready"
        else:
            message = f"{where} failed in on_start: {type(link.failure).__name__}: {link.failure}"
        error = StartError(message, step=link.name, pid=link.pid, exit_code=exit_code)
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
