"""The engine of a flow whose pipeline is another process."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from ...exceptions import NotRunningError
from ...handler import BaseTaskHandler
from ...logger import log
from ...reports import TaskPair
from ..loops.engine_calls import EngineCalls
from ..loops.owner import Owner
from ..options import EngineOptions
from ..scheduling.caller import Caller
from ..state import FlowState
from ..statistics import FlowStatistics
from ..system.process_memory import default_memory_limit
from ..trial import ShadowControl, TrialControl
from ..wire.frames import Kind, ProtocolError
from ..workers.launch_errors import memory_error
from .client_memory import ClientMemory
from .connection import Connection
from .exported_share import ExportedShare
from .handshake import ClientEnd
from .packed_handler import PackedHandler, pack_handler
from .remote_logs import RemoteLogs
from .remote_trial import RemoteTrials, read_pair
from .replacements import Replacements
from .requests import AnsweredPair, Requests
from .search import Rendezvous, Search
from .status import GuestReport
from .status_view import StatusView

LEAVE_TIMEOUT = 10.0
"""Seconds beyond `stop_timeout` that a process which leaves waits for the end of a pipeline without other users."""


class RemoteEngine(EngineCalls):
    """Has a pipeline process run the tasks of a flow. When that has ended it looks for the next one by itself.

    Args:
        options: What the flow declares.
        rendezvous: Finds the pipeline process.
        replacements: Keeps the handlers that are put in, with which the rendezvous starts the next pipeline process.

    Attributes:
        name: Name of the flow.
        loop: The event loop that drives it; None while there is none.
        thread: Identifier of the thread in which that loop ran when it began to drive it.
        owner: Tracks that loop and hands it the calls of other threads.
        replacements: As given.
    """

    def __init__(
        self, options: EngineOptions, rendezvous: Rendezvous, replacements: Replacements | None = None
    ) -> None:
        self.name = options.name
        self.loop: asyncio.AbstractEventLoop | None = None
        self.thread = 0
        self.owner = Owner(self)
        self._options = options
        self._search = Search(options.name, options.start_timeout, rendezvous, self._join)
        self._connection: Connection | None = None
        self._ended: asyncio.Event | None = None
        self._restoring: set[asyncio.Task[None]] = set()
        self._outcomes: Counter[str] = Counter()  # of tasks of earlier connections
        self._view = StatusView(options, self._count)
        self._logs = RemoteLogs(options)
        self._requests = Requests(options.name, self._read_pair)
        self._trials = RemoteTrials(self._requests, self.owner.run)
        self.replacements = replacements or Replacements(len(options.steps))
        self._exported = ExportedShare(self._view, self._own_outcomes)

    async def start(self, timeout: float) -> None:
        """Connect, in the running event loop; see `Search.first`."""
        loop, self.thread = asyncio.get_running_loop(), threading.get_ident()
        self.loop = loop
        self._join(await self._search.first(timeout))
        for reporter in self._options.reporters:
            reporter.attach(self._exported, loop)
        log.info("flow %s runs in the pipeline process %d", self.name, self._running().pid)

    @property
    def caller(self) -> Caller:
        """Submits tasks to the pipeline process.

        Raises:
            NotRunningError: There is none now.
        """
        return self._running().caller

    @property
    def memory_limit(self) -> int:
        """Bytes of shared memory that all processes may use."""
        if self._connection is None:
            return self._options.memory_limit or default_memory_limit()
        return self._connection.memory.arena.layout.limit

    @property
    def in_flight(self) -> int:
        """Number of tasks of this process that are not settled."""
        return 0 if self._connection is None else self._connection.submissions.in_flight

    @property
    def call_memory(self) -> ClientMemory:
        """The shared memory that callers of this process fill; see `EngineCalls`."""
        return self._running().memory

    def end_streams(self) -> None:
        """End the streams that are read in the running event loop; see `Flow.end_streams`."""
        if self.loop is asyncio.get_running_loop() and self._connection is not None:
            self._connection.submissions.streams.end_all()

    async def replace(self, index: int, handler: BaseTaskHandler, is_in_place: bool) -> None:
        """Replace the workers of a step; see `Changes.replace`."""
        packed = await self._pack(index, handler)
        await self.owner.run(partial(self._requests.call, "replace", index, packed, is_in_place))

    async def restart(self, index: int, is_in_place: bool) -> None:
        """Replace the workers of a step by fresh ones with the handler that it has by now."""
        await self.owner.run(partial(self._requests.call, "restart", index, is_in_place))

    async def canary(self, index: int, handler: BaseTaskHandler, share: float) -> TrialControl:
        """Give a share of the tasks of a step to one more worker; see `Engine.canary`."""
        return await self._trials.begin("canary", index, await self._pack(index, handler), share)

    async def shadow(self, index: int, handler: BaseTaskHandler, keep: int) -> ShadowControl:
        """Give copies of the tasks of a step to one more worker; see `Engine.shadow`."""
        return await self._trials.begin("shadow", index, await self._pack(index, handler), keep)

    async def resize(self, index: int, size: int) -> None:
        """Give a step another number of workers; see `Changes.resize`."""
        await self.owner.run(partial(self._requests.call, "resize", index, size))

    async def _pack(self, index: int, handler: BaseTaskHandler) -> PackedHandler:
        return await asyncio.to_thread(pack_handler, self._options, index, handler)

    async def wait_idle(self, timeout: float) -> bool:
        """Wait until no task of this process is in flight; tell whether that was within ``timeout`` seconds."""
        return self._connection is None or await self._connection.submissions.wait_idle(timeout)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Work in another event loop."""
        before, self.loop, self.thread = self.loop, loop, threading.get_ident()
        if self._connection is not None:
            if before is not None:
                self._connection.detach(self._loop_ended, handed=False)
            self._connection.attach(loop)
        else:
            if before is not loop:
                self._search.detach(before)  # one that has only stopped still has the task that looks
            self._search.begin(loop)
        self._view.attach(loop)
        self._logs.attach(loop)
        for reporter in self._options.reporters:
            reporter.attach(self._exported, loop)

    def detach(self) -> None:
        """Leave the event loop; the pipeline goes on."""
        self._view.detach()
        self._logs.detach()
        if self._connection is not None:
            self._connection.detach(self._loop_ended, handed=False)
        self._search.detach(self.loop)
        for reporter in self._options.reporters:
            reporter.detach()
        self.loop = None

    async def kill(self) -> None:
        """End every task; `close` must follow. The workers are not of this process."""
        if self._connection is not None:
            self._connection.abandon(self._stopped)

    def kill_at_once(self) -> None:
        """End the connection without waiting; `close` must follow."""
        self._search.end()
        if self._connection is not None:
            self._connection.link.close()

    async def close(self, kill: bool) -> None:
        """End every task, and leave the pipeline. If no other process uses it, it has ended when this returns.

        Args:
            kill: Whether this waits for nothing.
        """
        self._search.end()
        connection = self._connection
        if connection is not None:
            connection.abandon(self._stopped)
        self.owner.close(f"the task ended with flow {self.name}: the flow was stopped")
        for reporter in self._options.reporters:
            await reporter.finish()
        if connection is not None and not kill:
            self._ended = asyncio.Event()
            connection.leave()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._options.stop_timeout + LEAVE_TIMEOUT):
                    await self._ended.wait()
        self.detach()
        if self._connection is not None:
            self._forget_connection(self._connection, self._stopped, "the flow was stopped")
        self._search.close()
        self.owner.end_background()

    def statistics(self, state: str) -> FlowStatistics:
        """Return a snapshot.

        Args:
            state: State of the flow.
        """
        if self._connection is None:
            return replace(self._view.statistics(FlowState.STARTING), reason=self._search.reason)
        if self.owner.is_here():
            self._connection.collect()
        return self._view.statistics(state)

    def _count(self) -> GuestReport:
        connection = self._connection
        if connection is None:
            return GuestReport()
        memory = connection.memory
        arrivals = memory.arrivals
        return GuestReport(len(arrivals), arrivals.held, memory.leased(), memory.unsent())

    def _own_outcomes(self) -> Counter[str]:
        connection = self._connection
        return self._outcomes if connection is None else self._outcomes + Counter(connection.submissions.outcomes)

    def end_at_exit(self) -> None:
        """Leave without waiting, at the exit of the interpreter."""
        self.owner.at_exit(self._let_go)

    def forget(self) -> None:
        """Close the descriptors in a forked child, without the event loop."""
        self.loop = None
        self._view.detach()
        if self._connection is not None:
            self._connection.forget()
            self._connection = None

    def _let_go(self) -> None:
        self._search.end()
        if self._connection is not None:
            self._connection.link.close()

    def _running(self) -> Connection:
        if self._connection is None:
            raise self._options.refusals.count(
                NotRunningError(
                    f"flow {self.name} has no pipeline process now: {self._search.reason or 'it is being started'}"
                )
            )
        return self._connection

    def _join(self, end: ClientEnd) -> None:
        try:
            connection = Connection(self._options, end, self._on_frame, self._on_end, self._logs)
        except OSError as exc:
            raise memory_error(self.name, exc) from exc
        connection.open(self.owner.is_here)
        assert self.loop is not None
        self._connection = connection
        self._requests.begin(connection.post)
        self._view.begin(connection.post, connection.board.silent_for)
        self._view.on_status(end.welcome.settings["status"])
        self._logs.begin()
        self._logs.attach(self.loop)
        connection.attach(self.loop)
        self._logs.tell_levels(connection.post)
        if self._options.recording.recorder is not None:
            connection.post(Kind.RECORD, b"")
        self._view.attach(self.loop)
        self._restore(self.loop)

    def _restore(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have a pipeline process that others have started anew put in the handlers again that the last one had."""
        versions = [step.version for step in self._view.statistics(FlowState.RUNNING).steps]
        for replacement in self.replacements.newer_than(versions):
            restoring = loop.create_task(self._requests.call("restore", replacement))
            self._restoring.add(restoring)
            restoring.add_done_callback(self._note_restored)

    def _note_restored(self, restoring: asyncio.Task[None]) -> None:
        self._restoring.discard(restoring)
        if not restoring.cancelled() and (error := restoring.exception()) is not None:
            log.warning("flow %s has the handler that was declared, and not the last one: %s", self.name, error)

    def _on_frame(self, kind: Kind, payload: bytes) -> None:
        if kind is Kind.STATUS:
            self._view.on_status(payload)
        elif kind is Kind.LOG:
            self._logs.on_log(payload)
        elif kind is Kind.RESULT:
            self._requests.on_result(payload)
        elif kind is Kind.REPLACED:
            self.replacements.note(payload)
        else:
            raise ProtocolError(f"a pipeline process does not send frames of kind {kind.name}")

    def _on_end(self, reason: str) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._search.reason = reason
        error = f"the task ended with the pipeline of flow {self.name}: {reason}"
        self._forget_connection(connection, lambda: NotRunningError(error), reason)
        if self._ended is not None:
            self._ended.set()
        if self._search.is_over:
            return
        log.error(
            "flow %s has lost its pipeline: %s; its tasks are refused until there is another one", self.name, reason
        )
        if self.loop is not None:
            self._search.begin(self.loop)

    def _forget_connection(self, connection: Connection, error: Callable[[], Exception], reason: str) -> None:
        self._connection = None
        connection.close(error)
        self._trials.lose()
        self._requests.end(reason)
        self._view.end()
        self._outcomes.update(connection.submissions.outcomes)

    def _read_pair(self, pair: AnsweredPair) -> TaskPair:
        connection = self._running()
        memory, blocks = connection.memory, [*pair.baseline.content.blocks, *pair.candidate.content.blocks]
        memory.accept(blocks)
        try:
            return read_pair(connection.submissions.codec, self.name, pair)
        finally:
            memory.drop(blocks)

    def _stopped(self) -> NotRunningError:
        return NotRunningError(f"the task ended with flow {self.name}: the flow was stopped")

    def _loop_ended(self) -> NotRunningError:
        return NotRunningError(f"the task ended with flow {self.name}: its event loop has ended")
