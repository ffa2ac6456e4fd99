"""A pipeline in the event loop of the test, which its flow reaches over a real connection."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager

from fastapi_aqueduct import Flow, __version__
from fastapi_aqueduct.engine.engine import LocalEngine
from fastapi_aqueduct.engine.memory.regions import GUESTS
from fastapi_aqueduct.engine.options import EngineOptions
from fastapi_aqueduct.engine.shared.client import RemoteEngine
from fastapi_aqueduct.engine.shared.desk import PipelineDesk
from fastapi_aqueduct.engine.shared.gateway import Gateway
from fastapi_aqueduct.engine.shared.handshake import ClientEnd, Hello, greet, receive_hello
from fastapi_aqueduct.engine.shared.plan import make_plan
from fastapi_aqueduct.engine.shared.planned_starter import PlannedStarter
from fastapi_aqueduct.engine.workers.starter import Starter
from fastapi_aqueduct.testing.threads import ThreadStarter


class LoopPipeline:
    """A pipeline in the running event loop. As a rendezvous it starts it when the first client connects.

    Args:
        options: What the flow declares.
        make_starter: Makes what starts its workers; by default threads.

    Attributes:
        engine: Its engine, once it has started.
        gateway: Its gateway, once it has started.
    """

    engine: LocalEngine
    gateway: Gateway

    def __init__(
        self, options: EngineOptions, make_starter: Callable[[EngineOptions], Starter | None] = ThreadStarter
    ) -> None:
        self._options = options
        self._make_starter = make_starter
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._is_started = False
        self._end: asyncio.Task[None] | None = None
        self.sockets: list[socket.socket] = []

    def connect(self, deadline: float) -> ClientEnd:
        """Connect; see `Rendezvous.connect`."""
        with self._lock:
            if not self._is_started:
                asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
                self._is_started = True
        ours, theirs = socket.socketpair()
        self.sockets.append(ours)
        threading.Thread(target=self._receive, args=[theirs]).start()
        return greet(ours, Hello(__version__, self._options.name, "", os.getpid()), deadline)

    def resume(self) -> None:
        """Do nothing: nothing was cancelled."""

    def cancel(self) -> None:
        """End no wait: there are none."""

    async def _start(self) -> None:
        self.engine = LocalEngine.build(self._options, self._make_starter(self._options), GUESTS)
        try:
            await self.engine.start(60)
        except BaseException:
            await self.engine.close(True)
            raise
        self._desk = PipelineDesk(self.engine)
        self._desk.attach(self._loop)
        self.gateway = Gateway(self.engine, self._desk, self._on_empty)

    def _receive(self, theirs: socket.socket) -> None:
        end = receive_hello(theirs)
        self._loop.call_soon_threadsafe(self.gateway.admit, end)

    def _on_empty(self, has_left: bool) -> bool:
        self.gateway.close()
        self._end = self._loop.create_task(self._stop())
        return True

    async def _stop(self) -> None:
        await self.engine.close(False)
        self.gateway.end()
        self._desk.close()


def pipeline_of(engine: RemoteEngine) -> LoopPipeline:
    """Return the pipeline of an engine of `in_a_pipeline`."""
    pipeline = engine._search._rendezvous
    assert isinstance(pipeline, LoopPipeline)
    return pipeline


def in_a_pipeline(flow: Flow) -> AbstractContextManager[object]:
    """Have a flow run in a pipeline of the event loop in which it is started."""

    def build(options: EngineOptions) -> RemoteEngine:
        return RemoteEngine(options, LoopPipeline(options))

    return flow._lifecycle.built_by(build)


def planned_pipeline(options: EngineOptions) -> LoopPipeline:
    """Return a pipeline of the running event loop that runs a flow by a plan, with worker processes."""
    plan = make_plan(options)
    return LoopPipeline(plan.options, lambda options: PlannedStarter(plan))


@contextlib.asynccontextmanager
async def sharing(*flows: Flow) -> AsyncIterator[LoopPipeline]:
    """Start flows, each as in a process of its own, that share a pipeline with worker processes."""
    pipeline = planned_pipeline(flows[0]._lifecycle.options)
    async with contextlib.AsyncExitStack() as stack:
        for flow in flows:
            stack.enter_context(flow._lifecycle.built_by(lambda options: RemoteEngine(options, pipeline)))
            await stack.enter_async_context(flow)
        yield pipeline


def engine(flow: Flow) -> RemoteEngine:
    """Return the engine of a flow that shares a pipeline."""
    found = flow._lifecycle.engine
    assert isinstance(found, RemoteEngine)
    return found
