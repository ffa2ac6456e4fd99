"""Launches a worker: makes its channel, sends its setup, starts its process."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from ..child.importing import explain_forkserver
from ..child.setup import KEPT, Setup
from ..memory.flow_memory import FlowMemory
from ..timing import DEFAULT_TIMING, Timing
from ..wire.channel import make_pair
from ..wire.frames import Kind, pack
from .group import ProcessGroup
from .handle import WorkerHandle
from .lifeline import Lifeline
from .process import Descriptors, StartMethod, start_process, thread_environment
from .slot import Slot
from .spec import WorkerSpec


class Launcher:
    """Launches the workers of a flow.

    Args:
        name: Name of the flow.
        method: How processes are started.
        memory_fd: Descriptor of the shared memory.
        lifeline: Ends with this process, which workers see.
        memory: The shared memory of the flow.
        workers: How many workers the flow has, which share the cores.
        timing: The times of the engine.
    """

    def __init__(
        self,
        name: str,
        method: StartMethod,
        memory_fd: int,
        lifeline: Lifeline,
        memory: FlowMemory,
        workers: int,
        timing: Timing = DEFAULT_TIMING,
    ) -> None:
        self._name = name
        self._method = method
        self._memory_fd = memory_fd
        self._lifeline = lifeline
        self._memory = memory
        # Not the default executor: while an application fills that, a dead worker would not be replaced.
        self._threads = ThreadPoolExecutor(thread_name_prefix="aqueduct-launch")
        self._starting: set[socket.socket] = set()
        self._timing = timing
        self._environment = thread_environment(workers)

    def close(self) -> None:
        """Release the threads, when no more workers are launched."""
        self._threads.shutdown(wait=False)

    def prepare(
        self,
        slot: Slot,
        on_frames: Callable[[WorkerHandle, list[tuple[Kind, bytes]]], None],
        on_exit: Callable[[WorkerHandle], None],
    ) -> tuple[WorkerHandle, socket.socket]:
        """Make the handle and the channel of a worker that has no process yet, and send the setup.

        Args:
            slot: A free slot.
            on_frames: Called with the worker and the frames that have arrived.
            on_exit: Called once with the worker when its process has ended.

        Returns:
            The worker, and its end of the channel for `start`.

        Raises:
            Exception: No descriptor or no memory is left; nothing is left open.
        """
        spec = slot.spec
        self._memory.arena.status.reset(slot.region)
        with contextlib.ExitStack() as undo:
            ours, theirs = make_pair()
            undo.callback(theirs.close)
            undo.callback(ours.close)
            worker = WorkerHandle(
                spec.index,
                spec.name,
                spec.step,
                slot.region,
                ours,
                self._memory.arena.status.call_of,
                on_frames,
                on_exit,
                self._timing.frame_timeout,
            )
            undo.callback(worker.close)
            worker.send(spec.prelude + pack(Kind.SETUP, self._setup(slot)))
            undo.pop_all()
        return worker, theirs

    async def start(self, spec: WorkerSpec, worker: WorkerHandle, theirs: socket.socket) -> None:
        """Start the process of a worker. A cancellation waits until the process is known.

        Args:
            spec: What the worker runs.
            worker: The worker.
            theirs: Its end of the channel, which this closes.

        Raises:
            Exception: No descriptor or no memory is left, or the forkserver cannot import the user's script.
        """
        label = f"{self._name}:{worker.name}"
        descriptors = Descriptors(self._memory_fd, worker.trace_fd, self._lifeline.read_fd, spec.program.fd)
        self._starting.add(theirs)

        def start() -> None:
            # In the thread, so that the process is adopted even if the event loop ends meanwhile.
            try:
                process = start_process(self._method, theirs, descriptors, label, self._environment)
                worker.adopt(ProcessGroup(process))
            finally:
                self._close(theirs)

        try:
            done = asyncio.wrap_future(self._run(start))
        except BaseException:
            self._close(theirs)
            raise
        try:
            await asyncio.shield(done)
        except asyncio.CancelledError:
            await asyncio.wait([done])  # else no handle would own the process
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

    def hint(self, exit_code: int | None) -> str:
        """Return what may have ended a worker that has sent no exception; an empty string if nothing is known.

        Args:
            exit_code: The exit status of its process.
        """
        if self._method == "forkserver" and exit_code == 1:
            return f"; {explain_forkserver()}"
        return ""

    def _setup(self, slot: Slot) -> bytes:
        spec, step = slot.spec, slot.spec.step
        setup = Setup(
            step=spec.index,
            name=spec.name,
            may_run_again=step.max_retries > 0,
            layout=self._memory.arena.layout,
            region=slot.region,
            blocks=self._memory.ledger.adoptable_blocks(slot.region),
            busy_poll=step.busy_poll,
            # Memory that is kept must not look like growth.
            kept=min(KEPT, step.max_memory_growth // 2) if step.max_memory_growth else KEPT,
            is_continuous=step.continuous,
            places=step.places,
            handle_timeout=step.handle_timeout,
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
