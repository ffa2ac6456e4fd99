"""Workers that are threads of this process, in the place of worker processes."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from ..engine.child.hand import Hand
from ..engine.child.program import Program
from ..engine.child.session import Session
from ..engine.marks import make_markers
from ..engine.memory.arena import Arena
from ..engine.options import EngineOptions
from ..engine.statistics import TemplateStatistics
from ..engine.wire.worker_channel import WorkerChannel
from ..engine.workers.environment import WorkerEnvironment, make_environment
from ..engine.workers.spec import WorkerSpec
from ..engine.workers.starter import share_of_cores
from ..engine.workers.template import Template
from ..exceptions import StartError
from ..handler import BaseTaskHandler, rounds_without_worker
from ..logger import log
from ..runtime import set_runtime, task_hosts
from ..task import shared_memories
from ..worker import WorkerInfo, set_thread_info
from .logs import records_of_worker

_FAILURE = 1
"""Exit status of a worker that has ended because of an unexpected exception."""

_channels: weakref.WeakSet[WorkerChannel] = weakref.WeakSet()
"""The ends of the workers, which a fork of this process must not use."""


class ThreadStarter:
    """Starts each worker in a thread. Handlers and conditions are used as they are, and not pickled.

    Args:
        options: What the flow declares.
    """

    def __init__(self, options: EngineOptions) -> None:
        self._options = options
        self._template = None if options.template is None else InlineTemplate(options.name, options.template)

    @property
    def template(self) -> Template | None:
        """What is loaded once in this process."""
        return self._template

    def make_specs(self) -> list[WorkerSpec]:
        """List what the workers of each step run."""
        return [WorkerSpec(index, name, step) for index, (name, step) in enumerate(self._options.steps)]

    def renew(self, spec: WorkerSpec, handler: BaseTaskHandler) -> WorkerSpec:
        """List what the workers of a step run with another handler."""
        return replace(spec, step=spec.step.with_handler(handler), version=spec.version + 1)

    def environment(self, spec: WorkerSpec, index: int) -> WorkerEnvironment:
        """Return what a worker process would get of its machine, without the variables: the process has its own."""
        options = spec.step.worker and replace(spec.step.worker, env=None)
        return make_environment(options, index, share_of_cores(self._options), {})._replace(variables={})

    def start(
        self,
        spec: WorkerSpec,
        variables: Mapping[str, str],
        sock: socket.socket,
        memory_fd: int,
        trace_fd: int,
        lifeline_fd: int,
    ) -> WorkerThread:
        """Start the thread of a worker.

        Args:
            spec: What the worker runs.
            variables: Not used.
            sock: Its end of the channel, which the caller closes.
            memory_fd: Descriptor of the shared memory.
            trace_fd: Not used.
            lifeline_fd: Not used.
        """
        conditions = [step.handle_condition for _, step in self._options.steps]
        markers = make_markers(self._options.steps)
        code = spec.step.handler, conditions, self._options.context, None, markers
        program = Program(*code, self._options.shape)
        return WorkerThread(program, sock, memory_fd, f"{self._options.name}:{spec.name}")

    def hint(self, exit_code: int | None) -> str:
        """Return nothing: a thread always reports why it has ended."""
        return ""


class InlineTemplate(Template):
    """What the option ``template`` of a flow loads, in this process.

    Args:
        flow: Name of the flow.
        function: The option.
    """

    def __init__(self, flow: str, function: Callable[[], object]) -> None:
        self._flow = flow
        self._function = function

    def load(self, lifeline_fd: int) -> None:
        """Call the function.

        Raises:
            StartError: It has raised.
        """
        try:
            self._function()
        except Exception as exc:
            raise StartError(f"the template of flow {self._flow} failed: {type(exc).__name__}: {exc}") from exc

    def interrupt(self) -> None:
        """Do nothing: a thread cannot be killed."""

    shut = detach = close = forget = interrupt

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Do nothing: it ends with this process."""

    def statistics(self) -> TemplateStatistics:
        """Return this process."""
        return TemplateStatistics(os.getpid())


class WorkerThread:
    """A worker in a thread, as its sentinel sees it.

    A thread cannot be killed. A signal that would end a process ends the connection instead: the flow goes on as
    without this worker, and the thread ends when the handler returns.

    Args:
        program: What it runs.
        sock: Its end of the channel, of which it uses a copy.
        memory_fd: Descriptor of the shared memory, of which it uses a copy.
        name: Name of the thread.

    Attributes:
        pid: Id of this process.
        number: 0, since it has no process group of its own.
        pidfd: Becomes readable when the worker has ended.
    """

    def __init__(self, program: Program, sock: socket.socket, memory_fd: int, name: str) -> None:
        self.pid = os.getpid()
        self.number = 0
        self.pidfd: int | None
        self._exit_code: int | None = None
        self._lock = threading.Lock()
        self._sock = sock.dup()
        memory_fd = os.dup(memory_fd)
        self.pidfd, self._alive_fd = os.pipe()
        threading.Thread(target=self._run, args=(program, memory_fd), name=name, daemon=True).start()

    @property
    def status_fd(self) -> int | None:
        """None: the exit status is known as soon as the worker has ended."""
        return None

    @property
    def is_killed(self) -> bool:
        """Whether a signal has ended it."""
        return (self._exit_code or 0) < 0

    def open(self) -> None:
        """Do nothing: `pidfd` is open from the beginning."""

    def exit_code(self) -> int | None:
        """Return the exit status, as that of a process."""
        return self._exit_code

    def signal_leader(self, signum: signal.Signals) -> None:
        """End the connection if the signal would end a process."""
        if signum in (signal.SIGTERM, signal.SIGKILL) and self._end(-signum):
            self._sock.shutdown(socket.SHUT_RDWR)  # wakes a thread that waits for tasks

    signal = signal_leader

    def end(self) -> bool:
        """Return True: the exit status is known."""
        return True

    def reap(self) -> None:
        """End the connection."""
        self.signal_leader(signal.SIGKILL)

    def close(self) -> None:
        """Close `pidfd`."""
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None

    forget = close

    def _end(self, exit_code: int) -> bool:
        """Let the worker count as ended.

        Returns:
            Whether it had not before.
        """
        with self._lock:
            if self._exit_code is not None:
                return False
            self._exit_code = exit_code
            os.close(self._alive_fd)
            return True

    def _run(self, program: Program, memory_fd: int) -> None:
        channel = WorkerChannel(self._sock)
        _channels.add(channel)
        exit_code = 0
        session = ThreadSession(channel, memory_fd, self)
        try:
            with records_of_worker(program.context):
                session.prepare(lambda: program)
                session.run()
        except SystemExit as exc:
            exit_code = exc.code if isinstance(exc.code, int) else 0
        except BaseException:
            exit_code = _FAILURE
            if not self.is_killed:
                log.exception("a worker in thread %s has ended", threading.current_thread().name)
        finally:
            if channel.is_closed:  # a fork that the handler has made: this thread is all of it
                _end_fork(exit_code)
            session.leave()
            os.close(memory_fd)
            self._end(exit_code)
            self._sock.close()


class ThreadSession(Session):
    """The work of a worker in a thread.

    Args:
        channel: The worker's end of the channel.
        memory_fd: Descriptor of the shared memory.
        thread: The thread.
    """

    def __init__(self, channel: WorkerChannel, memory_fd: int, thread: WorkerThread) -> None:
        super().__init__(channel, memory_fd, _Mortal())
        self._thread = thread
        self._arena: Arena | None = None

    def stop(self) -> None:
        """Call `on_stop`, unless the worker was killed."""
        if not self._thread.is_killed:
            super().stop()

    def join_info(self, info: WorkerInfo) -> None:
        """Let user code in this thread find what it can know about the worker."""
        set_thread_info(info)

    def join_memory(self, arena: Arena) -> None:
        """Let tasks in this thread find the shared memory."""
        here = threading.get_ident()
        arena.is_here = lambda: threading.get_ident() == here
        self._arena = arena
        shared_memories.append(arena)

    def join_hosts(self, hand: Hand) -> None:
        """Let tasks in this thread find what runs them."""
        thread_hosts.add(hand)

    def leave(self) -> None:
        """Undo `join_memory` and `join_hosts`."""
        thread_hosts.remove()
        if self._arena is not None:
            shared_memories.remove(self._arena)


class ThreadHosts:
    """Passes the requests of tasks to the worker that has them in hand: that of the present thread.

    A task that no worker has is treated as where no flow runs: a test may call a handler directly beside a flow.
    """

    def __init__(self) -> None:
        self._hands: dict[int, Hand] = {}

    def add(self, hand: Hand) -> None:
        """Add the worker of the present thread."""
        if not self._hands:
            task_hosts.append(self)
        self._hands[threading.get_ident()] = hand

    def remove(self) -> None:
        """Remove the worker of the present thread, if there is one."""
        if self._hands.pop(threading.get_ident(), None) is not None and not self._hands:
            task_hosts.remove(self)

    def is_worker(self) -> bool:
        """Tell whether the present thread is that of a worker."""
        return threading.get_ident() in self._hands

    def is_cancelled(self, task: Any) -> bool:
        """Tell whether the caller of a task does not wait for it any more."""
        return any(hand.is_cancelled(task) for hand in self._hands_of(task))

    def emit(self, task: Any, item: Any) -> None:
        """Send an item of a task."""
        for hand in self._hands_of(task):
            hand.emit(task, item)

    def progress(self, task: Any, done: float, of: float) -> None:
        """Send a report of a task's progress."""
        for hand in self._hands_of(task):
            hand.progress(task, done, of)

    def finish(self, task: Any) -> None:
        """Answer a task before its call returns."""
        hands = self._hands_of(task)
        for hand in hands:
            hand.finish(task)
        if not hands:
            set_runtime(task, "is_finished", True)

    def rounds(self, tasks: Sequence[Any]) -> Iterator[list[Any]]:
        """Iterate over the tasks that are not answered yet."""
        for hand in self._hands_of(*tasks[:1]):
            return hand.rounds(tasks)
        return rounds_without_worker(tasks)

    def surround(self, task: Any) -> AbstractContextManager[None]:
        """Return a context manager in which code works for one task of a batch."""
        for hand in self._hands_of(task):
            return hand.surround(task)
        return nullcontext()

    def _hands_of(self, *tasks: Any) -> list[Hand]:
        here = self._hands.get(threading.get_ident())
        if here is not None:
            return [here]
        return [hand for hand in list(self._hands.values()) if any(hand.peek(task) is not None for task in tasks)]


thread_hosts = ThreadHosts()
"""The workers of this process."""


class _Mortal:
    """In place of the signal at the death of the API process: a thread ends with its process."""

    def arm(self) -> None:
        """Do nothing."""

    def disarm(self) -> None:
        """Do nothing."""


def _close_channels() -> None:
    for channel in list(_channels):
        channel.close()


os.register_at_fork(after_in_child=_close_channels)


def _end_fork(exit_code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(exit_code)
