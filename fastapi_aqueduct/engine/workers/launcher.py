"""Starts one worker: its channel, what it is told, its process."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import socket
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from ...exceptions import ConfigurationError
from ...step import FlowStep
from ..child.bootstrap import pack_prelude
from ..child.importing import check_not_importing, explain_forkserver
from ..child.program import Program, ProgramFile
from ..child.setup import KEPT, Setup
from ..memory.flow_memory import FlowMemory
from ..memory.layout import Layout
from ..timing import DEFAULT_TIMING, Timing
from ..wire.channel import make_pair
from ..wire.frames import Kind, pack
from .group import ProcessGroup
from .handle import WorkerHandle
from .interpreter import check_interpreter
from .lifeline import Lifeline
from .process import Descriptors, StartMethod, start_process, thread_environment
from .slot import Slot
from .start_errors import launch_error


class Launcher:
    """Makes the workers of a flow, one at a time.

    Args:
        name: Name of the flow.
        steps: Its steps, each with its name.
        method: How processes are started.
        memory_fd: Descriptor of the shared memory.
        lifeline: What workers see the end of this process by.
        layout: How it is divided.
        memory: The shared memory of the flow.
        timing: How long an unfinished message of a worker is waited for.
    """

    def __init__(
        self,
        name: str,
        steps: list[tuple[str, FlowStep]],
        method: StartMethod,
        memory_fd: int,
        lifeline: Lifeline,
        layout: Layout,
        memory: FlowMemory,
        timing: Timing = DEFAULT_TIMING,
    ) -> None:
        self._name = name
        self._steps = steps
        self._method = method
        self._memory_fd = memory_fd
        self._lifeline = lifeline
        self._layout = layout
        self._memory = memory
        self._programs: list[ProgramFile] = []
        # Not the default executor: an application may fill that, and a dead worker would not be replaced meanwhile.
        self._threads = ThreadPoolExecutor(thread_name_prefix="aqueduct-launch")
        self._starting: set[socket.socket] = set()
        self._timing = timing
        self._environment = thread_environment(sum(step.nprocs for _, step in steps))

    def check(self) -> None:
        """Write down what the workers will run, once for all of them.

        Raises:
            ConfigurationError: A handler or condition cannot be pickled, this is a worker that imports the module that
                starts the flow, or the application is frozen and has not said what a worker should do.
            StartError: No descriptor or no memory is left for it.
        """
        check_interpreter()
        check_not_importing(self._name)
        conditions = [step.handle_condition for _, step in self._steps]
        for name, step in self._steps:
            try:
                data = pickle.dumps(Program(step.handler, conditions), 5)
            except Exception:
                self._blame()
                raise
            try:
                self._programs.append(ProgramFile(f"{self._name}:{name}", data))
            except OSError as exc:
                raise launch_error(self._name, name, exc) from exc

    def _blame(self) -> None:
        for name, step in self._steps:
            for what, value in (("handler", step.handler), ("handle_condition", step.handle_condition)):
                try:
                    pickle.dumps(value, 5)
                except Exception as exc:
                    raise ConfigurationError(
                        f"the {what} of {name} in flow {self._name} cannot be sent to a worker process: {exc}; "
                        "define it at the top level of a module, and create what cannot be pickled in on_start"
                    ) from exc

    def close(self) -> None:
        """Give back what was made for workers, when there will be no more of them."""
        self._threads.shutdown(wait=False)
        self._close_programs()

    def _close_programs(self) -> None:
        for program in self._programs:
            program.close()
        self._programs.clear()

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
        name, step = self._steps[slot.step]
        self._memory.arena.status.reset(slot.region)
        with contextlib.ExitStack() as undo:
            ours, theirs = make_pair()
            undo.callback(theirs.close)
            undo.callback(ours.close)
            worker = WorkerHandle(
                slot.step,
                name,
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
            worker.send(pack_prelude() + pack(Kind.SETUP, self._setup(slot)))
            undo.pop_all()
        return worker, theirs

    async def start(self, worker: WorkerHandle, theirs: socket.socket) -> None:
        """Start the process of a worker.

        Args:
            worker: The worker.
            theirs: Its end of the channel, which is closed here.

        Raises:
            Exception: No descriptor or no memory is left, or the forkserver cannot import the user's script.
        """
        label = f"{self._name}:{worker.name}"
        program = self._programs[worker.step]
        descriptors = Descriptors(self._memory_fd, worker.trace_fd, self._lifeline.read_fd, program.fd)
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
        """Close what was made for workers, also for those that are being started; in a forked child."""
        for theirs in self._starting:
            theirs.close()
        self._close_programs()  # and not the threads: there are none here, and their lock may be held for ever

    def hint(self, exit_code: int | None) -> str:
        """Say what may be behind the end of a worker that could not tell it itself; empty where nothing is known.

        Args:
            exit_code: Its exit status.
        """
        if self._method == "forkserver" and exit_code == 1:
            return f"; {explain_forkserver()}"
        return ""

    def _setup(self, slot: Slot) -> bytes:
        name, step = self._steps[slot.step]
        setup = Setup(
            step=slot.step,
            name=name,
            may_run_again=step.max_retries > 0,
            layout=self._layout,
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
