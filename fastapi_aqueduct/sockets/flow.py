"""SocketFlow: a flow whose pipeline several web processes share, as in the package aqueduct."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from weakref import WeakSet

from ..engine.loops.background import run_in_thread
from ..engine.loops.event_loop import in_event_loop
from ..exceptions import UsageError
from ..flow import Flow
from ..logger import log
from ..pipeline import PipelinePlace
from ..task import BaseTask
from .preload import limited, start_owned
from .processes import ProcessContext
from .settings import SocketSettings

_preloaded: dict[Path, Flow] = {}
"""The flows that this process, or one that it is a fork of, has preloaded, by the path of the socket."""


class SocketFlow:
    """A flow whose pipeline is a process that a server preloads and whose forks connect to it.

    A face of the shared pipeline, for programs for the package aqueduct; new ones use ``Aqueduct(flow,
    pipeline="host")``, which needs neither gunicorn nor a fork.

    Args:
        name: The environment variables of the settings begin with it and an underscore, also if it is empty.
    """

    def __init__(self, name: str = "") -> None:
        self._name = name
        self._flow: Flow | None = None
        self._most_time = 0.0

    def preload(self, flow: Flow, timeout: float | None = None) -> ProcessContext:
        """Start the pipeline process and block until its workers are ready, in the process that forks the others.

        It ends with this process. A flow whose workers `Flow.init_processes` has started here starts them anew there.

        Args:
            flow: The flow, which this process itself does not start.
            timeout: Seconds in which all workers must be ready; default: ``start_timeout`` of the flow.

        Returns:
            The pipeline process, which may be killed.

        Raises:
            StartError, StartTimeout: As for `Flow.start`; nothing is left running.
            ConfigurationError: Another pipeline process listens at the path of the socket, or a setting is wrong.
        """
        path = SocketSettings.read(self._name).path
        if flow.are_steps_initialized:
            _stop(flow)
        process = start_owned(limited(flow._configuration.read(), timeout), path)
        _preloaded[path] = flow
        log.info("flow %s runs in the pipeline process %d at %s", flow.name, process.pid, path)
        return ProcessContext(process, flow.stop_timeout)

    async def start(self) -> None:
        """Connect to the pipeline process. Several objects of one name have one connection.

        Raises:
            UsageError: No flow was preloaded in this process, or in one that it is a fork of.
            StartError, StartTimeout: There is no pipeline process.
        """
        settings = SocketSettings.read(self._name)
        flow = _preloaded.get(settings.path)
        if flow is None:
            raise UsageError(
                "SocketFlow has no flow in this process: call SocketFlow.preload(flow) in the process that forks this "
                f'one, or use Aqueduct(flow, pipeline="unix:{settings.path}") and `fastapi-aqueduct serve`'
            )
        if not flow.is_running:
            PipelinePlace("unix", str(settings.path)).assign([flow])
            await flow.start_async()
        self._flow, self._most_time = flow, settings.most_time
        _connected.add(self)

    async def stop(self) -> None:
        """Leave the pipeline process, which goes on. Does nothing before `start`."""
        flow, self._flow = self._flow, None
        if flow is not None and not any(other._flow is flow for other in _connected):
            await flow.stop()

    async def process(self, tasks: Sequence[BaseTask], timeout_sec: float = 5.0) -> bool:
        """Send tasks through the steps, side by side, and set the results in them.

        Args:
            tasks: The tasks.
            timeout_sec: Seconds in which the answers must come. FLOW_PROCESS_TIMEOUT and SOCKET_POOL_READ_TIMEOUT limit
                it if they are set.

        Returns:
            True.

        Raises:
            UsageError: `start` was not called.
            Exception: As for `Flow.process`: the error of the first task that has one, when all tasks have ended.

        A cancellation withdraws the tasks.
        """
        if self._flow is None:
            raise UsageError("SocketFlow is not connected: await its start() when the web process starts")
        timeout = min(timeout_sec, self._most_time)
        ends = await asyncio.gather(*(self._flow.process(task, timeout) for task in tasks), return_exceptions=True)
        for end in ends:
            if isinstance(end, BaseException):
                raise end
        return True


_connected: WeakSet[SocketFlow] = WeakSet()
"""Those of this process that were started, and that may have a connection in common."""


def _stop(flow: Flow) -> None:
    if in_event_loop():
        run_in_thread(lambda: asyncio.run(flow.stop()))
    else:
        asyncio.run(flow.stop())
