"""Starts one worker: its channel, what it is told, its process."""

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
    """Makes the workers of a flow, one at a time.

    Args:
        name: Name of the flow.
        method: How processes are started.
        memory_fd: Descriptor of the shared memory.
        lifeline: What workers see the end of this process by.
        memory: The shared memory of the flow.
        workers: How many workers the flow has, which share the cores.
        timing: How long an unfinished message of a worker is waited for.
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
        # Not the default executor: an application may fill that, and a dead worker would not be replaced meanwhile.
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
        """Make the channel to a worker that has no process yet, and tell it what to run.

        Args:
            slot: The worker's place; nobody is in it.
            on_frames: Called with the worker and the frames that have arrived.
            on_exit: Called once with the worker when the process is gone.

        Returns:
            The worker, and the worker's end of the channel for `start`.

        Raises:
            Exception: No descriptor or no memory is left; nothing is left open.
        """
        spec, step = slot.spec, slot.spec.step
        self._memory.arena.status.reset(slot.region)
        with contextlib.ExitStack() as undo:
            ours, theirs = make_pair()
            undo.callback(theirs.close)
            undo.callback(ours.close)
            worker = WorkerHandle(
                spec.index,
                spec.name,
                slot.region,
                ours,
                step.batch_size,
                step.handle_timeout,
                self._memory.arena.status.call_of,
                on_frames,
                on_exit,
                step.busy_poll,
                self._timing.frame_timeout,
            )
            undo.callback(worker.close)
            worker.send(spec.prelude + pack(Kind.SETUP, self._setup(slot)))
            undo.pop_all()
        return worker, theirs

    async def start(self, spec: WorkerSpec, worker: WorkerHandle, theirs: socket.socket) -> None:
        """Start the process of a worker.

        Args:
            spec: What it runs.
            worker: The worker.
            theirs: Its end of the channel, which is closed here.

        Raises:
            Exception: No descriptor or no memory is left, or the forkserver cannot import the user's script.
        """
        label = f"{self._name}:{worker.name}"
        descriptors = Descriptors(self._memory_fd, worker.trace_fd, self._lifeline.read_fd, spec.program.fd)
        self._starting.add(theirs)

        def start() -> None:
            # In the thread, so that the process is known also when the event loop ends before it is started.
            try:
                process = start_process(self._method, theirs, descriptors, label, self._environment)
                worker.adopt(ProcessGroup(process))
            finally:
                self._let_go(theirs)

        try:
            done = asyncio.wrap_future(self._run(start))
        except BaseException:
            self._let_go(theirs)
            raise
        try:
            await asyncio.shield(done)
        except asyncio.CancelledError:
            await asyncio.wait([done])  # a process that is half started belongs to nothing
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
            # What was submitted stays in the executor's queue, and a thread of another launch would call it later.
            if done.cancel():
                raise
        return done

    def _let_go(self, theirs: socket.socket) -> None:
        self._starting.discard(theirs)
        theirs.close()

    def forget(self) -> None:
        """Close what was made for the workers that are being started; in a forked child."""
        # Not the threads: there are none here, and their lock may be held for ever.
        for theirs in self._starting:
            theirs.close()

    def hint(self, exit_code: int | None) -> str:
        """Say what may be behind the end of a worker that could not tell it itself; empty where nothing is known.

        Args:
            exit_code: Its exit status.
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
            # What is kept must not look like a leak.
            kept=min(KEPT, step.max_memory_growth // 2) if step.max_memory_growth else KEPT,
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
