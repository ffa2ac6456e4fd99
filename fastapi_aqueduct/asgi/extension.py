"""The extension: runs flows with an application."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.util import find_spec
from inspect import isfunction
from typing import Any, ClassVar, Self

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from ..exceptions import ConfigurationError
from ..flow import Flow, TaskRecorder, check_asyncio, checked_recorder
from ..handler import BaseTaskHandler
from ..logger import log
from ..pipeline import PipelinePlace
from ..recording.recorder import Recorder
from ..step import FlowStep
from ..worker_function import InWorkers, flow_of
from .app_options import AppOptions
from .drain import Drain
from .endpoints.calling_routes import watch_routes
from .endpoints.fast_path import use_fast_path
from .endpoints.guarded_routes import guard_routes
from .flow_set import FlowJobs, FlowSet
from .openapi import document
from .probes import Probes
from .process import ProcessSettings
from .refusal_log import RefusalLog
from .route_check import RouteCheck
from .settings import Settings, UploadLimits
from .status.page import StatusPage
from .status.replacements import Offered


class Aqueduct:
    """Starts flows with an application and stops them with it; adds probes, OpenAPI and metrics.

    There are four ways to use it, and several can be used together:

        app = FastAPI(lifespan=aqueduct.lifespan)

        aqueduct.install(app)

        async with aqueduct.run(app):       # in a lifespan of your own
            yield

        combine_lifespans(own, aqueduct.lifespan)   # with the function of your framework that combines lifespans

    A mounted application needs no extension of its own: the flows run with the application it is mounted on.

    Args:
        *flows: The flows, functions that `in_worker` has decorated, and pools (`ModelPool`). A flow that already runs
            when the application starts is used, and is not stopped.
        drain_delay: Seconds between SIGTERM and the server's own shutdown. Meanwhile ``/ready`` responds 503 and
            requests are served, so that load balancers can choose other servers. A second SIGTERM, or Ctrl-C, ends it.
        upload_limits: Limits of uploads for endpoints without their own; default: `UploadLimits()`.
        server_timing: Whether responses have a header Server-Timing, which shows where the time went; an endpoint can
            override it. The header shows clients the names of the steps.
        adjust_malloc: Whether glibc keeps up to 16 MiB of freed memory in the server's process, which makes uploads
            cheaper. Skipped where the environment has its own settings of malloc.
        adjust_gc: Whether Python's garbage collector runs less often while the flows run.
        fast_path: Whether endpoints without dependencies skip most of FastAPI's handler, and endpoints that stream its
            streamed responses.
        handle_signals: Whether SIGTERM and SIGINT are handled here before the server handles them. Without it there is
            no ``drain_delay``, ``/ready`` does not show that the server stops, and open streams can hold up its stop.
        register_metrics: Whether the flows are in the default registry of prometheus_client, if that is installed.
        add_probes: Whether ``/ready``, ``/live`` and ``/startup`` are added to the application, at the root.
        pipeline: Where workers and queues are. ``"own"``: each process of the server has its own. ``"host"``: the
            processes of a server share them; the first one starts a process that runs them.
            ``"unix:/run/ocr/flow.sock"``: ``fastapi-aqueduct serve`` runs them; ``{flow}`` in the path stands for the
            name of a flow. Default: what the environment variable AQUEDUCT_PIPELINE says, or ``"own"``.
        jobs: A `Jobs`: tasks of the flows that are answered later. With a shared pipeline all processes accept them,
            and one runs them; otherwise a process waits until the one that has their store has ended.
        replacements: The handlers by which the status page can replace those of steps, by step and name:
            ``{flow.steps["caption"]: {"large": Caption("large.onnx")}}``.
        admin_is_public: Whether the status page may be included without dependencies.
        recorder: A `Recorder`: tasks of the flows that fail are written to files, for ``fastapi-aqueduct replay``.

    Attributes:
        flows: The flows, also those behind functions.
        jobs: As given.
        recorder: As given.
        server_timing: As given.
        refusal_log: Logs the refused requests.
        is_stopping: Whether the server was told to stop.
        is_ready: Whether requests should be sent here, as ``/ready`` responds; read from memory.
        probes: A router with the three probes, for another place:
            ``app.include_router(aqueduct.probes, prefix="/internal", dependencies=[...])``.
        admin: A router with the status page, whose buttons change the workers:
            ``app.include_router(aqueduct.admin, prefix="/ops", dependencies=[Depends(admin)])``. Where no dependency
            stands before it, the application does not start.

    Raises:
        ConfigurationError: There are no flows, a flow is given twice, an argument is no flow, or the flows cannot run
            where ``pipeline`` says.
    """

    _all_flows: ClassVar[weakref.WeakSet[Flow]] = weakref.WeakSet()
    _all_jobs: ClassVar[weakref.WeakSet[FlowJobs]] = weakref.WeakSet()

    def __init__(
        self,
        *flows: Flow | InWorkers,
        drain_delay: float = 0.0,
        upload_limits: UploadLimits | None = None,
        server_timing: bool = False,
        adjust_malloc: bool = True,
        adjust_gc: bool = False,
        fast_path: bool = True,
        handle_signals: bool = True,
        register_metrics: bool = True,
        add_probes: bool = True,
        pipeline: str | None = None,
        jobs: FlowJobs | None = None,
        replacements: Offered | None = None,
        admin_is_public: bool = False,
        recorder: Recorder | None = None,
    ) -> None:
        given = tuple(map(flow_of, flows))
        _check_flows(given)
        if not given or len(set(given)) < len(given):
            raise ConfigurationError("Aqueduct needs at least one flow, and each flow only once")
        self._pipeline = PipelinePlace.read(pipeline)
        self._pipeline.check(given)
        self.flows = given
        self._all_flows.update(given)
        self.server_timing = server_timing
        self.refusal_log = RefusalLog()
        self._has_functions = given != flows
        self.jobs = jobs
        self.recorder = checked_recorder(recorder)
        self._recorders: tuple[TaskRecorder | None, ...] = ()
        if jobs is not None:
            self._all_jobs.add(jobs)
        self._flow_set = FlowSet(given, jobs)
        self._declared = self._options = AppOptions(drain_delay, upload_limits, handle_signals)
        self._drain = Drain(self._flow_set, self._end_page)
        self._probes = Probes(given, self._drain)
        self.probes = self._probes.router()
        self._page = StatusPage(given, jobs, self._probes, self._drain, replacements, admin_is_public)
        self.admin = self._page.router()
        self._process = ProcessSettings(adjust_malloc, adjust_gc)
        self._has_fast_path = fast_path
        self._why_slow: str | None = None
        self._registers_metrics = register_metrics
        self._adds_probes = add_probes
        self._users = 0
        self._lock = asyncio.Lock()
        self._unregister_metrics: Callable[[], None] = lambda: None

    @property
    def is_stopping(self) -> bool:
        """Whether the server was told to stop."""
        return self._drain.is_draining

    @property
    def is_ready(self) -> bool:
        """Whether requests should be sent here, as ``/ready`` responds; read from memory."""
        return self._probes.is_ready

    @property
    def upload_limits(self) -> UploadLimits | None:
        """Limits of uploads for endpoints without their own, as the environment has set them at the start."""
        return self._options.upload_limits

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[dict[str, Aqueduct]]:
        """Run the flows as the lifespan of an application; ``request.state.aqueduct`` is this object.

        Args:
            app: The application.

        Raises:
            StartError, StartTimeout: As for `Flow.start`; the application does not start, and nothing is left running.
            StoreError: The store of jobs cannot be used, or another process has it.
            ConfigurationError: An endpoint cannot work in the application; for example, its flow or its jobs are
                missing.
        """
        async with self.run(app):
            yield {"aqueduct": self}

    @asynccontextmanager
    async def run(self, app: Starlette) -> AsyncIterator[Self]:
        """Run the flows while the context is open, as a part of a lifespan of your own.

        Args:
            app: The application.

        Raises:
            StartError, StartTimeout, StoreError, ConfigurationError: As for `lifespan`.
        """
        check_asyncio()
        RouteCheck(self.flows, self._all_flows, self._all_jobs).check(app)
        self._page.check(app)
        self._attach(app)
        async with self._lock:
            if not self._users:
                await self._start()
            self._users += 1
        graceful = True
        try:
            yield self
        except asyncio.CancelledError:
            # The server stops at once: it does not wait for the end of its lifespan.
            graceful = False
            raise
        finally:
            async with self._lock:
                self._users -= 1
                if not self._users:
                    await self._stop(graceful)

    def install(self, app: Starlette) -> Self:
        """Wrap the lifespan that an application has already.

        The flows start before it and stop after it, so that start-up code may process a task. Called where the
        application is made, this also completes the schema that ``app.openapi()`` returns without a server.

        Args:
            app: The application.

        Returns:
            This object.
        """
        self._attach(app)
        inner = app.router.lifespan_context
        if not isinstance(inner, _OuterLifespan) or inner.aqueduct is not self:
            app.router.lifespan_context = _OuterLifespan(self, inner)
        return self

    def _attach(self, app: Starlette) -> None:
        if self._adds_probes:
            self._probes.add_to(app)
        self._prepare(app)

    def _prepare(self, app: Starlette) -> None:
        settings: Settings = self
        app.state.aqueduct = settings
        document(app)
        if self._has_fast_path and isinstance(app, FastAPI):
            self._log_slow_path(use_fast_path(app))
        guard_routes(app)
        if self._has_functions:
            watch_routes(app)
        for route in app.routes:
            if isinstance(route, Mount) and isinstance(route.app, Starlette):
                self._prepare(route.app)

    def _log_slow_path(self, why_slow: str | None) -> None:
        # Once, though applications may be mounted, and are prepared by `install` and by `run`.
        if why_slow is not None and why_slow != self._why_slow:
            self._why_slow = why_slow
            log.info("endpoints are answered by FastAPI's own handler, which is slower: %s", why_slow)

    async def _start(self) -> None:
        self._options = self._declared.read()
        self._pipeline.assign(self.flows)
        await self._set_recorder()
        await self._flow_set.start(is_shared=self._pipeline.kind != "own")
        if self._registers_metrics:
            self._unregister_metrics = _register_metrics(self.flows, self.jobs)
        self._process.apply()
        self._probes.has_started = True
        if self._options.handles_signals:
            self._drain.install(self._options.drain_delay)
        self._page.open()

    def _end_page(self) -> None:
        self._page.end()

    async def _stop(self, graceful: bool) -> None:
        self._probes.has_started = False
        unregister, self._unregister_metrics = self._unregister_metrics, lambda: None
        unregister()
        self._process.restore()
        try:
            await self._page.close()
            await self._flow_set.stop(graceful)
        finally:
            self._restore_recorders()
            self._drain.restore()
            self.refusal_log.close()

    async def _set_recorder(self) -> None:
        self._recorders = tuple(flow.recorder for flow in self.flows)
        if self.recorder is None:
            return
        await asyncio.to_thread(self.recorder.open)  # also for flows that run already
        for flow in self.flows:
            flow.recorder = self.recorder

    def _restore_recorders(self) -> None:
        for flow, before in zip(self.flows, self._recorders, strict=True):
            flow.recorder = before


class _OuterLifespan:
    """The lifespan of an `Aqueduct` with the application's own lifespan inside it."""

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
            advice = f"; wrap it in a flow: Aqueduct(Flow({type(flow).__name__}(...)))" if is_step else ""
            if isfunction(flow):
                advice = f"; put @in_worker above {flow.__name__}"
            raise ConfigurationError(f"Aqueduct needs flows, got {flow!r}{advice}")


def _register_metrics(flows: tuple[Flow, ...], jobs: FlowJobs | None) -> Callable[[], None]:
    if find_spec("prometheus_client") is None:
        return lambda: None
    from ..metrics.prometheus import publication

    return publication.add(flows, jobs)
