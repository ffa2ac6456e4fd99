"""Flows in applications of FastAPI, under the names of the package aqueduct."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import HTTPConnection

from ..asgi.extension import Aqueduct
from ..exceptions import ConfigurationError, UsageError
from ..flow import Flow
from ..logger import replace_logger
from .utils import AQUEDUCT_FLOW_NAMES as AQUEDUCT_FLOW_NAMES
from .utils import FLOW_NAME as FLOW_NAME
from .utils import get_start_timeout as get_start_timeout
from .utils import limit_of_start, observe, place_pipelines, stop_all


class AppIntegrator:
    """Runs flows with an application: they start before its own lifespan, and stop after it.

    New code uses `Aqueduct`, which also has probes; endpoints with `flow_endpoint` and ``FlowDep`` work with both.

    Args:
        app: The application.
        exit_on_fail: Whether SIGTERM is sent to this process when a flow was stopped, or a step of one is not expected
            to recover. A dead worker is replaced.
        logger: The package logs where this one logs; None: to its own logger.

    Raises:
        UsageError: The application has an AppIntegrator.
    """

    def __init__(self, app: FastAPI, exit_on_fail: bool = True, logger: logging.Logger | None = None) -> None:
        if hasattr(app.state, AQUEDUCT_FLOW_NAMES):
            raise UsageError("AppIntegrator can be created only once. Reuse existing AppIntegrator.")
        self._app = app
        self._exits_on_fail = exit_on_fail
        self._flows: dict[str, Flow] = {}
        self._has_started = False
        self._started: list[Flow] = []
        self._inner = app.router.lifespan_context
        setattr(app.state, AQUEDUCT_FLOW_NAMES, [])
        app.router.lifespan_context = self._lifespan
        if logger is not None:
            replace_logger(logger)

    def add_flow(self, flow: Flow, flow_name: str = FLOW_NAME, with_start: bool = True) -> None:
        """Add a flow as ``app.state.<flow_name>``.

        Args:
            flow: The flow.
            flow_name: Its name in the application.
            with_start: Whether it is started with the application, before its lifespan; FLOW_START_TIMEOUT in the
                environment limits that. Without it the lifespan starts the flow.

        Raises:
            UsageError: The application has a flow or a value of this name, or has started.
        """
        if self._has_started:
            raise UsageError("a flow cannot be added to an application that has started: add it before")
        if hasattr(self._app.state, flow_name):
            raise UsageError(f'Flow with name "{flow_name}" already exists in app')
        self._flows[flow_name] = flow
        getattr(self._app.state, AQUEDUCT_FLOW_NAMES).append(flow_name)
        setattr(self._app.state, flow_name, flow)
        if with_start:
            self._started.append(flow)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[Any]:
        self._has_started = True
        async with AsyncExitStack() as stack:
            stack.push_async_callback(stop_all, self._flows.values())
            await self._start()
            running = [flow for flow in self._flows.values() if flow.is_running]
            if running:
                await stack.enter_async_context(Aqueduct(*running, add_probes=False).run(app))
            state = await stack.enter_async_context(self._inner(app))
            if self._exits_on_fail:
                stack.callback(asyncio.create_task(observe_flows(self._flows)).cancel)
            yield state

    async def _start(self) -> None:
        if self._started:
            place_pipelines(self._started)
        for flow in self._started:
            await flow.start_async(limit_of_start())


async def observe_flows(flows: Mapping[str, Flow], check_interval: float = 1.0) -> None:
    """Send SIGTERM to this process when a flow was stopped, or a step of one is not expected to recover.

    Args:
        flows: The flows, by their names in the application.
        check_interval: Seconds between two looks at them.
    """
    await observe(flows, check_interval)


def get_flow(flow_name: str = FLOW_NAME) -> Callable[[HTTPConnection], Flow]:
    """Return a dependency that is a flow of the application: ``Depends(get_flow("ocr"))``.

    Args:
        flow_name: Name of the flow in the application.
    """

    def dependency(connection: HTTPConnection) -> Flow:
        flow = getattr(connection.app.state, flow_name, None)
        if not isinstance(flow, Flow):
            raise ConfigurationError(
                f'the application has no flow "{flow_name}": AppIntegrator(app).add_flow(flow, "{flow_name}")'
            )
        return flow

    return dependency
