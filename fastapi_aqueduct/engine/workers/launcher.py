"""Launches a worker: makes its channel, sends its setup, has it started."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from ...handler import BaseTaskHandler
from ...worker import WorkerInfo
from ..child.setup import KEPT, Setup
from ..memory.flow_memory import FlowMemory
from ..timing import Timing
from ..wire.channel import make_pair
from ..wire.frames import Kind, pack
from .handle import WorkerHandle
from .level_watch import level_watch
from .lifeline import Lifeline
from .slot import Slot
from .spec import WorkerSpec
from .starter import Starter
from .template import Template


class Launcher:
    """Launches the workers of a flow.

    Args:
        flow: Name of the flow.
        starter: Starts a worker.
        memory_fd: Descriptor of the shared memory.
        lifeline: Ends with this process, which workers see.
        memory: The shared memory of the flow.
        timing: The times of the engine.
        forward_logs: Whether workers forward what user code logs.

    Attributes:
        starter: As given.
    """

    def __init__(
        self,
        flow: str,
        starter: Starter,
        memory_fd: int,
        lifeline: Lifeline,
        memory: FlowMemory,
        timing: Timing,
        forward_logs: bool,
    ) -> None:
        self.starter = starter
        self._flow = flow
        self._memory_fd = memory_fd
        self._lifeline = lifeline
        self._memory = memory
        # Not the default executor: while an application fills that, a dead worker would not be replaced.
        self._threads = ThreadPoolExecutor(thread_name_prefix="aqueduct-launch")
        self._starting: set[socket.socket] = set()
        self._timing = timing
        self._level_watch = level_watch if forward_logs else None

    @property
    def template(self) -> Template | None:
        """What is loaded once for all workers, if anything is."""
        return self.starter.template

    def close(self) -> None:
        """Release the threads and the template, when all workers have ended."""
        self._threads.shutdown(wait=False)
        if self.template is not None:
            self.template.close()

    async def load(self, template: Template) -> None:
        """Load the template, in a thread. A cancellation interrupts it.

        Raises:
            StartError: This failed, or was interrupted.
        """
        await self._wait(self._run(lambda: template.load(self._lifeline.read_fd)))

    def prepare(
        self,
        slot: Slot,
        index: int,
        on_frames: Callable[[WorkerHandle, list[tuple[Kind, bytes]]], None],
        on_exit: Callable[[WorkerHandle], None],
    ) -> tuple[WorkerHandle, socket.socket]:
        """Make the handle and the channel of a worker that has no process yet, and send the setup.

        Args:
            slot: A free slot.
            index: The number of the worker in its step.
            on_frames: Called with the worker and the frames that have arrived.
            on_exit: Called once with the worker when its process has ended.

        Returns:
            The worker, and its end of the channel for `start`.

        Raises:
            Exception: No descriptor or no memory is left, or the worker cannot have what its step declares; nothing is
                left open.
        """
        spec = slot.spec
        environment = self.starter.environment(spec, index)
        self._memory.arena.status.reset(slot.region)
        with contextlib.ExitStack() as undo:
            ours, theirs = make_pair()
            undo.callback(theirs.close)
            undo.callback(ours.close)
            worker = WorkerHandle(
                spec,
                index,
                slot.region,
                ours,
                self._memory.arena.status.call_of,
                on_frames,
                on_exit,
                self._timing.frame_timeout,
                self._level_watch,
                environment,
                self._memory.arena.status.check_of,
                self._timing.check_interval,
            )
            undo.callback(worker.close)
            worker.send(spec.prelude + pack(Kind.SETUP, self._setup(slot, worker)))
            undo.pop_all()
        return worker, theirs

    def vacate(self, slot: Slot) -> None:
        """Return the shared memory of a slot to the system whose worker is gone and has no successor yet."""
        self._memory.vacate(slot.region)

    async def start(self, spec: WorkerSpec, worker: WorkerHandle, theirs: socket.socket) -> None:
        """Start the process of a worker. A cancellation waits until the process is known.

        Args:
            spec: What the worker runs.
            worker: The worker.
            theirs: Its end of the channel, which this closes.

        Raises:
            Exception: No descriptor or no memory is left, or the forkserver cannot import the user's script.
        """
        self._starting.add(theirs)

        def start() -> None:
            # In the thread, so that the process is adopted even if the event loop ends meanwhile.
            try:
                fds = self._memory_fd, worker.trace_fd, self._lifeline.read_fd
                worker.adopt(self.starter.start(spec, worker.environment.variables, theirs, *fds))
            finally:
                self._close(theirs)

        try:
            done = self._run(start)
        except BaseException:
            self._close(theirs)
            raise
        await self._wait(done)

    async def _wait(self, future: Future[None]) -> None:
        done = asyncio.wrap_future(future)
        try:
            await asyncio.shield(done)
        except asyncio.CancelledError:
            if self.template is not None:
                self.template.interrupt()
            await asyncio.wait([done])  # else no handle would own the process
            raise

    async def renew(self, spec: WorkerSpec, handler: BaseTaskHandler) -> WorkerSpec:
        """Make in a thread what the workers of a step run with another handler; see `Starter.renew`.

        A cancellation does not wait for it. What comes of it afterwards is closed.
        """
        making = self._threads.submit(self.starter.renew, spec, handler)
        try:
            return await asyncio.wrap_future(making)
        except asyncio.CancelledError:
            making.add_done_callback(_close_unused)
            raise

    def _run(self, function: Callable[[], None]) -> Future[None]:
        """Call a function in a thread.

        Raises:
            Exception: No thread can be started; the function is not called.
        """
        done: Future[None] = Future()
        try:
            self._threads.submit(_call, function, done)
        except BaseException:
            # The executor keeps what was submitted, and a thread of another launch would call it later.
            if done.cancel():
                raise
        return done

    def _close(self, theirs: socket.socket) -> None:
        self._starting.discard(theirs)
        theirs.close()

    def forget(self) -> None:
        """Close the channels of workers that are being started; in a forked child."""
        # The executor is left alone: its threads do not exist here, and its lock may be locked for ever.
        for theirs in self._starting:
            theirs.close()
        if self.template is not None:
            self.template.forget()

    def _setup(self, slot: Slot, worker: WorkerHandle) -> bytes:
        spec, step = slot.spec, slot.spec.step
        threads, device, device_id = worker.environment[1:]
        info = WorkerInfo(self._flow, spec.name, worker.index, 0, threads, spec.version, device, device_id)
        setup = Setup(
            step=spec.index,
            name=spec.name,
            may_run_again=step.max_retries > 0,
            layout=self._memory.arena.layout,
            region=slot.region,
            blocks=self._memory.occupy(slot.region),
            busy_poll=step.busy_poll,
            # Memory that is kept must not look like growth.
            kept=min(KEPT, step.max_memory_growth // 2) if step.max_memory_growth else KEPT,
            is_continuous=step.continuous,
            places=step.places,
            handle_timeout=step.handle_timeout,
            check_timeout=step.check_timeout,
            info=info,
            has_options=step.worker is not None,
            log_levels=worker.log_levels,
        )
        return setup.pack()


def _call(function: Callable[[], None], done: Future[None]) -> None:
    """Call a function, unless its future was cancelled."""
    if not done.set_running_or_notify_cancel():
        return
    try:
        function()
    except BaseException as exc:
        done.set_exception(exc)
    else:
        done.set_result(None)


def _close_unused(making: Future[WorkerSpec]) -> None:
    if not making.cancelled() and making.exception() is None:
        making.result().close()
