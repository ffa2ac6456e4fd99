"""Flows in applications of aiohttp."""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import AsyncIterator, Mapping
from typing import Any

from aiohttp import web

from ..engine.state import FlowState
from ..exceptions import UsageError
from ..flow import Flow
from ..logger import replace_logger
from .utils import AQUEDUCT_FLOW_NAMES as AQUEDUCT_FLOW_NAMES
from .utils import FLOW_NAME as FLOW_NAME
from .utils import FLOW_START_TIMEOUT_DEFAULT as FLOW_START_TIMEOUT_DEFAULT
from .utils import FLOW_START_TIMEOUT_NAME as FLOW_START_TIMEOUT_NAME
from .utils import FLOWS_OBSERVER as FLOWS_OBSERVER
from .utils import get_start_timeout as get_start_timeout
from .utils import limit_of_start, observe, place_pipelines, stop_all


async def observe_flows(app: web.Application, check_interval: float = 1.0) -> None:
    """Send SIGTERM to this process when a flow was stopped, or a step of one is not expected to recover.

    Args:
        app: The application.
        check_interval: Seconds between two looks at its flows.
    """
    await observe(_flows_of(app), check_interval)


async def run_flows_observer(app: web.Application) -> None:
    """Watch the flows of an application from its start on."""
    _put(app, FLOWS_OBSERVER, asyncio.create_task(observe_flows(app)))


async def stop_flows_observer(app: web.Application) -> None:
    """Watch the flows of an application no more."""
    _names(app)[FLOWS_OBSERVER].cancel()


async def end_streams(app: web.Application) -> None:
    """End the open streams of the flows of an application, for whose responses the server would wait."""
    for flow in _flows_of(app).values():
        flow.end_streams()


async def stop_flows(app: web.Application) -> None:
    """Stop the flows of an application side by side, when their tasks have ended."""
    await stop_all(_flows_of(app).values())


class AppIntegrator:
    """Runs flows with an application: they start when they are added, and stop after the last request was answered.

    Args:
        app: The application.
        exit_on_fail: Whether SIGTERM is sent to this process when a flow was stopped, or a step of one is not expected
            to recover. A dead worker is replaced.
        logger: The package logs where this one logs; None: to its own logger.

    Raises:
        UsageError: The application has an AppIntegrator.
    """

    def __init__(
        self, app: web.Application, exit_on_fail: bool = True, logger: logging.Logger | None = None
    ) -> None:
        if AQUEDUCT_FLOW_NAMES in app:
            raise UsageError("AppIntegrator can be created only once. Reuse existing AppIntegrator.")
        self._app = app
        self._started: list[Flow] = []
        _put(app, AQUEDUCT_FLOW_NAMES, [])
        app.cleanup_ctx.append(self._run)
        app.on_shutdown.append(end_streams)
        if exit_on_fail:
            app.on_startup.append(run_flows_observer)
            app.on_shutdown.append(stop_flows_observer)
        if logger is not None:
            replace_logger(logger)

    def add_flow(self, flow: Flow, flow_name: str = FLOW_NAME, with_start: bool = True) -> None:
        """Add a flow as ``app[flow_name]``.

        Args:
            flow: The flow.
            flow_name: Its name in the application.
            with_start: Whether to start it now, and block until its workers are ready. FLOW_START_TIMEOUT in the
                environment limits that.

        Raises:
            UsageError: The application has a flow or a value of this name.
            ConfigurationError: AQUEDUCT_PIPELINE says no place, or the flows cannot run there.
            StartError, StartTimeout: As for `Flow.start`.
        """
        if flow_name in self._app:
            raise UsageError(f'Flow with name "{flow_name}" already exists in app')
        if with_start:
            place_pipelines([flow], self._started)
            flow.start(limit_of_start())
            self._started.append(flow)
        _names(self._app)[AQUEDUCT_FLOW_NAMES].append(flow_name)
        _put(self._app, flow_name, flow)

    async def _run(self, app: web.Application) -> AsyncIterator[None]:
        # The end of a context comes after on_shutdown, in which requests may still need their flows, and also if
        # something else fails during the start.
        try:
            await self._adopt(app)
            yield
        finally:
            await stop_flows(app)

    async def _adopt(self, app: web.Application) -> None:
        """Have the loop of the server drive the flows; start those that run in the process that this is a fork of."""
        for flow in _flows_of(app).values():
            if flow.is_running:
                flow.adopt()
            elif flow in self._started and flow.state is FlowState.STOPPED:
                await flow.start_async(limit_of_start())


def _flows_of(app: web.Application) -> dict[str, Flow]:
    found = _names(app)
    return {name: found[name] for name in found[AQUEDUCT_FLOW_NAMES]}


def _names(app: web.Application) -> Mapping[Any, Any]:
    # The keys are texts, as those of users are; to aiohttp's types they would be objects.
    return app


def _put(app: web.Application, name: str, value: object) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # aiohttp prefers keys that are objects
        app[name] = value
