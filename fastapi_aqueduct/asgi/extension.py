"""Ties flows to an application."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.util import find_spec
from typing import Any, ClassVar, Self

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from ..engine.loops.event_loop import check_asyncio
from ..exceptions import ConfigurationError
from ..flow import Flow, FlowState
from ..handler import BaseTaskHandler
from ..logger import log
from ..step import FlowStep
from .body.limits import Settings, UploadLimits
from .drain import Drain
from .endpoints.fast_path import use_fast_path
from .endpoints.guarded_routes import guard_routes
from .openapi import document
from .probes import Probes
from .process import ProcessSettings
from .route_check import RouteCheck


class Aqueduct:
    """Starts flows with an application and stops them with it; adds probes, OpenAPI and metrics.

    There are four ways to use it, and using several at once does no harm::

        app = FastAPI(lifespan=aqueduct.lifespan)

        aqueduct.install(app)

        async with aqueduct.run(app):       # in a lifespan of your own
            yield

        combine_lifespans(own, aqueduct.lifespan)   # whatever function your framework has for that

    A mounted application needs nothing of its own: the flows run with the application it is mounted on.

    Args:
        *flows: The flows. One that runs already when the application starts is used, and not stopped.
        drain_delay: Seconds between SIGTERM and the server's own shutdown, in which ``/ready`` says 503 and requests
            are served as ever, so that load balancers can turn elsewhere. A second SIGTERM, or Ctrl-C, ends it.
        upload_limits: Guards while bodies come, for endpoints that do not have their own; default: `UploadLimits()`.
        server_timing: Whether answers say in a header Server-Timing where the time went, unless an endpoint says
            otherwise. It tells the public the names of the steps.
        adjust_malloc: Whether glibc keeps up to 16 MiB of freed memory in the server's process, which makes uploads
            cheaper; an environment with settings of its own for that is left alone.
        adjust_gc: Whether Python's garbage collector looks at new objects less often while the flows run.
        fast_path: Whether endpoints without dependencies are answered past most of FastAPI's handler.
        handle_signals: Whether SIGTERM and SIGINT pass through here on their way to the server; without it there is no
            ``drain_delay``, and ``/ready`` does not tell that the server stops.
        register_metrics: Whether the flows are in the default registry of prometheus_client, where that is installed.
        add_probes: Whether ``/ready``, ``/live`` and ``/startup`` are added to the application, at the root.

    Attributes:
        flows: The flows.
        upload_limits: As given.
        server_timing: As given.
        is_stopping: Whether the server has been told to stop.
        probes: A router with the three probes, to be included elsewhere:
            ``app.include_router(aqueduct.probes, prefix="/internal", dependencies=[...])``.

    Raises:
        ConfigurationError: There are no flows, one is given twice, or something else is given.
    """

    _all_flows: ClassVar[weakref.WeakSet[Flow]] = weakref.WeakSet()

    def __init__(
        self,
        *flows: Flow,
        drain_delay: float = 0.0,
        upload_limits: UploadLimits | None = None,
        server_timing: bool = False,
        adjust_malloc: bool = True,
        adjust_gc: bool = False,
        fast_path: bool = True,
        handle_signals: bool = True,
        register_metrics: bool = True,
        add_probes: bool = True,
    ) -> None:
        _check_flows(flows)
        if not flows or len(set(flows)) < len(flows):
            raise ConfigurationError("Aqueduct needs at least one flow, and each only once")
        if drain_delay < 0:
            raise ConfigurationError(f"drain_delay must not be negative, got {drain_delay}")
        if drain_delay and not handle_signals:
            raise ConfigurationError("drain_delay begins with SIGTERM, so it needs handle_signals=True")
        self.flows = flows
        self._all_flows.update(flows)
        self.upload_limits = upload_limits
        self.server_timing = server_timing
        self._drain = Drain(drain_delay, self._stop_at_once)
        self._probes = Probes(flows, self._drain)
        self.probes = self._probes.router()
        self._process = ProcessSettings(adjust_malloc, adjust_gc)
        self._has_fast_path = fast_path
        self._why_slow: str | None = None
        self._handles_signals = handle_signals
        self._registers_metrics = register_metrics
        self._adds_probes = add_probes
        self._users = 0
        self._lock = asyncio.Lock()
        self._started: list[Flow] = []
        self._forget_metrics: Callable[[], None] = lambda: None

    @property
    def is_stopping(self) -> bool:
        return self._drain.is_draining

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[dict[str, Aqueduct]]:
        """Run the flows as the lifespan of an application; ``request.state.aqueduct`` is then this object.

        Raises:
            StartError, StartTimeout: As for `Flow.start`; the application does not start, nothing is left running.
            ConfigurationError: An endpoint cannot work in the application; its flow is missing, for example.
        """
        async with self.run(app):
            yield {"aqueduct": self}

    @asynccontextmanager
    async def run(self, app: Starlette) -> AsyncIterator[Self]:
        """Run the flows as long as the context is open, as a part of a lifespan of your own.

        Raises:
            StartError, StartTimeout, ConfigurationError: As for `lifespan`.
        """
        check_asyncio()
        RouteCheck(self.flows, self._all_flows).check(app)
        self._attach(app)
        async with self._lock:
            if not self._users:
                await self._start()
            self._users += 1
        is_graceful = True
        try:
            yield self
        except asyncio.CancelledError:
            # The server does not wait for the end of its lifespan: it is in haste.
            is_graceful = False
            raise
        finally:
            async with self._lock:
                self._users -= 1
                if not self._users:
                    await self._stop(is_graceful)

    def install(self, app: Starlette) -> Self:
        """Put the flows around the lifespan that an application has already.

        They start before it and stop after it, so that start-up code may process a task. Done where the application
        is made, this also completes the schema that ``app.openapi()`` gives without a server.
        """
        self._attach(app)
        inner = app.router.lifespan_context
        if not isinstance(inner, _Around) or inner.aqueduct is not self:
            app.router.lifespan_context = _Around(self, inner)
        return self

    def _attach(self, app: Starlette) -> None:
        if self._adds_probes:
            self._probes.add_to(app)
        self._introduce(app)

    def _introduce(self, app: Starlette) -> None:
        settings: Settings = self
        app.state.aqueduct = settings
        document(app)
        if self._has_fast_path and isinstance(app, FastAPI):
            self._tell(use_fast_path(app))
        guard_routes(app)
        for route in app.routes:
            if isinstance(route, Mount) and isinstance(route.app, Starlette):
                self._introduce(route.app)

    def _tell(self, why_slow: str | None) -> None:
        # Said once, though applications may be mounted, and be introduced by `install` and by `run`.
        if why_slow is not None and why_slow != self._why_slow:
            self._why_slow = why_slow
            log.info("endpoints are answered by FastAPI's own handler, which is slower: %s", why_slow)

    async def _start(self) -> None:
        self._started = [flow for flow in self.flows if flow.state is not FlowState.RUNNING]
        for flow in self.flows:
            if flow not in self._started:
                flow.adopt()  # what was called before the server's loop began is in one of the flow's own
        starts = [asyncio.create_task(flow.start_async()) for flow in self._started]
        try:
            # The first failure ends the others, rather than to wait until they have loaded their models.
            await asyncio.gather(*starts)
        except BaseException:
            for start in starts:
                start.cancel()
            await asyncio.gather(*starts, return_exceptions=True)
            await self._stop(is_graceful=True)
            raise
        if self._registers_metrics:
            self._forget_metrics = _register_metrics(self.flows)
        self._process.apply()
        self._probes.has_started = True
        if self._handles_signals:
            self._drain.begin()

    async def _stop(self, is_graceful: bool) -> None:
        self._probes.has_started = False
        forget, self._forget_metrics = self._forget_metrics, lambda: None
        forget()
        self._process.restore()
        try:
            await self._stop_flows(is_graceful)
        finally:
            self._drain.end()

    def _stop_at_once(self) -> Awaitable[None]:
        # The workers now, and not when the loop turns next: granian may have stopped its loop by then.
        for flow in self._started:
            flow.kill_workers()
        return self._stop_flows(is_graceful=False)

    async def _stop_flows(self, is_graceful: bool) -> None:
        results = await asyncio.gather(*(flow.stop(is_graceful) for flow in self._started), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result


class _Around:
    """A lifespan inside that of an `Aqueduct`."""

    def __init__(self, aqueduct: Aqueduct, inner: Callable[[Any], AbstractAsyncContextManager[Any]]) -> None:
        self.aqueduct = aqueduct
        self._inner = inner

    @asynccontextmanager
    async def __call__(self, app: Starlette) -> AsyncIterator[dict[str, Any]]:
        async with self.aqueduct.lifespan(app) as state, self._inner(app) as inner_state:
            yield {**state, **(inner_state or {})}


def _check_flows(flows: tuple[object, ...]) -> None:
    for flow in flows:
        if flow is Flow:
            raise ConfigurationError("Aqueduct needs flows, got the class Flow; make one: Aqueduct(Flow(...))")
        if not isinstance(flow, Flow):
            is_step = isinstance(flow, FlowStep | BaseTaskHandler)
            advice = f"; a flow is made of it: Aqueduct(Flow({type(flow).__name__}(...)))" if is_step else ""
            raise ConfigurationError(f"Aqueduct needs flows, got {flow!r}{advice}")


def _register_metrics(flows: tuple[Flow, ...]) -> Callable[[], None]:
    if find_spec("prometheus_client") is None:
        return lambda: None
    from ..metrics.prometheus import publication

    return publication.add(flows)
