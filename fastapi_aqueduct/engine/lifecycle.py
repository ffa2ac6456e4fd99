"""The life cycle of a flow: starts its engine, stops it, ends it at the exit of the interpreter and after a fork."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from ..exceptions import NotRunningError
from ..logger import log
from .configuration import Configuration, FixedConfiguration
from .interface import Engine
from .loops.background import run_in_thread
from .loops.event_loop import check_asyncio, in_event_loop
from .options import EngineOptions
from .started import keep_for_good, note_end, note_start
from .state import FlowState, Origin, not_running

RECORDER_TIMEOUT = 5.0
"""Seconds that a stop waits for tasks that are being recorded."""


class Lifecycle:
    """Owns the state of a flow and the engine that it has meanwhile.

    Args:
        configuration: Has the options of the flow.
        build: Makes an engine that is not started.

    Attributes:
        state: State of the flow.
        engine: Its engine; None while the flow is stopped.
    """

    def __init__(
        self, configuration: Configuration | FixedConfiguration, build: Callable[[EngineOptions], Engine]
    ) -> None:
        self.state = FlowState.STOPPED
        self.engine: Engine | None = None
        self._configuration = configuration
        self._name = configuration.options.name
        self._build = build
        self._substitute: Callable[[EngineOptions], Engine] | None = None
        self._origin = Origin()

    @property
    def options(self) -> EngineOptions:
        """The options of the last start; as declared before the first one."""
        return self._configuration.options

    @property
    def stop_timeout(self) -> float:
        """Seconds that a graceful stop waits for tasks in flight."""
        return self.options.stop_timeout

    def build_by_default(self, build: Callable[[EngineOptions], Engine]) -> None:
        """Start with another kind of engine from now on, except in a context of `built_by`.

        Args:
            build: Makes an engine that is not started.
        """
        self._build = build

    @contextmanager
    def built_by(self, build: Callable[[EngineOptions], Engine]) -> Iterator[None]:
        """Start with another kind of engine, until the end of the context; `fastapi_aqueduct.testing` does this.

        Args:
            build: Makes an engine that is not started.

        Raises:
            NotRunningError: The flow is not stopped.
        """
        if self.state is not FlowState.STOPPED:
            raise NotRunningError(f"flow {self._name} is {self.state}: stop it before it gets another engine")
        before, self._substitute = self._substitute, build
        try:
            yield
        finally:
            self._substitute = before

    def running_engine(self, counts: bool = True) -> Engine:
        """Return the engine of a flow that runs.

        Args:
            counts: Whether the error counts as a refusal.

        Raises:
            NotRunningError: The flow is not running.
            ForkedError: It runs in the process that this one is a fork of.
        """
        engine = self.engine
        if engine is None or self.state is not FlowState.RUNNING:
            raise self.options.refusals.count(self._not_running()) if counts else self._not_running()
        return engine

    def _not_running(self) -> NotRunningError:
        return self._origin.error(self._name) if self._origin.is_forked else not_running(self._name, self.state)

    def start_blocking(self, timeout: float | None) -> None:
        """Start without an event loop, or without the running one; see `Flow.start`.

        Args:
            timeout: Seconds in which all workers must be ready; None: the ``start_timeout`` of the flow.
        """
        if self.state is FlowState.STEPS_INITIALIZED:
            self.start_inited()
            return
        self._start_without_loop(timeout)
        if self.engine is not None and in_event_loop():
            self.engine.adopt()

    def init_blocking(self, timeout: float | None) -> None:
        """Start the workers, and accept no tasks yet; see `Flow.init_processes`.

        Args:
            timeout: As for `start_blocking`.
        """
        self._start_without_loop(timeout)
        self.state = FlowState.STEPS_INITIALIZED

    def start_inited(self) -> None:
        """Accept tasks after `init_blocking`; see `Flow.start_inited`.

        Raises:
            NotRunningError: The workers are not started.
        """
        if self.engine is None or self.state is not FlowState.STEPS_INITIALIZED:
            raise self._not_running()
        self.state = FlowState.RUNNING
        if in_event_loop():
            self.engine.adopt()

    async def start(self, timeout: float | None) -> None:
        """Start in the running event loop; see `Flow.start_async`.

        Args:
            timeout: Seconds in which all workers must be ready; None: the ``start_timeout`` of the flow.
        """
        check_asyncio()
        if self.state is FlowState.STEPS_INITIALIZED:
            self.start_inited()
            return
        if self.state is not FlowState.STOPPED:
            raise NotRunningError(f"flow {self._name} cannot be started: it is {self.state}")
        engine = self.engine = (self._substitute or self._build)(self._configuration.read())
        self.state = FlowState.STARTING
        self._origin = Origin()
        note_start(self, self._end_at_exit, self._forget)
        recorder = self.options.recording.recorder
        try:
            if recorder is not None:
                await asyncio.to_thread(recorder.open)
            await engine.start(self.options.start_timeout if timeout is None else timeout)
        except BaseException:
            await asyncio.shield(asyncio.ensure_future(self._discard(engine, kill=True)))
            raise
        self.state = FlowState.RUNNING

    async def stop(self, graceful: bool) -> None:
        """Stop, in the event loop that drives the engine; see `Flow.stop`.

        Args:
            graceful: Whether to wait for tasks in flight first.
        """
        engine = self.engine
        if engine is not None and self.state is not FlowState.STARTING:
            await engine.run(partial(self._stop, engine, graceful))

    def _start_without_loop(self, timeout: float | None) -> None:
        if in_event_loop():
            run_in_thread(lambda: asyncio.run(self._start_detached(timeout)))
        else:
            asyncio.run(self._start_detached(timeout))

    async def _start_detached(self, timeout: float | None) -> None:
        await self.start(timeout)
        assert self.engine is not None
        self.engine.detach()

    async def _stop(self, engine: Engine, graceful: bool) -> None:
        if self.engine is not engine:
            return
        if self.state is FlowState.STOPPING:
            if not graceful:
                await engine.kill()
            return
        self.state = FlowState.STOPPING
        has_waited = False
        try:
            if graceful:
                if not await engine.wait_idle(self.stop_timeout):
                    log.warning("flow %s stops with %d tasks unfinished", self._name, engine.in_flight)
                has_waited = True
        finally:
            # A cancellation ends the wait for tasks, not the stop.
            await asyncio.shield(asyncio.ensure_future(self._discard(engine, kill=not has_waited)))

    async def _discard(self, engine: Engine, kill: bool) -> None:
        note_end(self)
        await engine.close(kill)
        recorder = self.options.recording.recorder
        if recorder is not None and not recorder.wait(0.0):
            await asyncio.to_thread(recorder.wait, RECORDER_TIMEOUT)
        self.engine = None
        self.state = FlowState.STOPPED

    def _forget(self) -> None:
        # In a fork of the process that started the flow. The workers answer that process only: with two readers of a
        # channel, each would get answers of the other.
        engine = self.engine
        if engine is None:
            return
        engine.forget()
        keep_for_good(engine)
        self.engine = None
        self.state = FlowState.STOPPED
        self._origin.is_forked = True

    def _end_at_exit(self) -> None:
        if self.engine is not None:
            self.engine.end_at_exit()
