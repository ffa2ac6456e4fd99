"""The flows of an application: started together, stopped together."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from ..flow import Flow, FlowState


class FlowJobs(Protocol):
    """The jobs of flows, as the life of an application concerns them: a `Jobs`.

    An application without jobs need not import SQLite, which some builds of Python lack.
    """

    async def start(self, flows: Sequence[Flow], is_shared: bool) -> None:
        """Run jobs; see `JobQueue.start`."""

    def pause(self) -> None:
        """Begin no more jobs."""

    def end_waits(self) -> None:
        """End the calls that wait for a job."""

    async def stop(self) -> None:
        """Stop, after the flows."""

    def statistics(self) -> Mapping[str, object]:
        """Count the jobs, by flow."""


class FlowSet:
    """Starts and stops flows together, and their jobs with them. A flow that runs already is used, and is not stopped.

    Args:
        flows: The flows.
        jobs: Their jobs; None: they have none.
    """

    def __init__(self, flows: tuple[Flow, ...], jobs: FlowJobs | None = None) -> None:
        self._flows = flows
        self._jobs = jobs
        self._started: list[Flow] = []

    async def start(self, is_shared: bool = False) -> None:
        """Start the flows that do not run, wait until all are ready, and run their jobs.

        Args:
            is_shared: Whether other processes have the same flows; see `Jobs.start`.

        Raises:
            StartError, StartTimeout: The first failure; the flows that were started are stopped again.
            StoreError: The store of jobs cannot be used, or another process has it.
        """
        self._started = [flow for flow in self._flows if flow.state is not FlowState.RUNNING]
        for flow in self._flows:
            if flow not in self._started:
                flow.adopt()  # calls from before the start of the server's loop run in a background loop
        starts = [asyncio.create_task(flow.start_async()) for flow in self._started]
        try:
            # The first failure ends the others, which may load models for minutes.
            await asyncio.gather(*starts)
            if self._jobs is not None:
                await self._jobs.start(self._flows, is_shared)
        except BaseException:
            for start in starts:
                start.cancel()
            await asyncio.gather(*starts, return_exceptions=True)
            await self.stop(graceful=True)
            raise

    async def stop(self, graceful: bool) -> None:
        """Stop the flows that `start` has started.

        Args:
            graceful: Whether to wait for tasks in flight first; see `Flow.stop`.
        """
        self.pause_jobs()
        results = await asyncio.gather(*(flow.stop(graceful) for flow in self._started), return_exceptions=True)
        if self._jobs is not None:
            await self._jobs.stop()
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def end_streams(self) -> None:
        """End the open streams of all flows, also of those that ran before: servers wait for open responses."""
        for flow in self._flows:
            flow.end_streams()
        if self._jobs is not None:
            self._jobs.end_waits()

    def pause_jobs(self) -> None:
        """Begin no more jobs: the server is about to stop."""
        if self._jobs is not None:
            self._jobs.pause()

    def end_streams_later(self) -> list[asyncio.TimerHandle]:
        """Have the open streams of each flow end after its `stop_timeout`; return the timers."""
        loop = asyncio.get_running_loop()
        timers = [loop.call_later(flow.stop_timeout, flow.end_streams) for flow in self._flows]
        if self._jobs is not None:
            longest = max(flow.stop_timeout for flow in self._flows)
            timers.append(loop.call_later(longest, self._jobs.end_waits))
        return timers

    def kill_workers(self) -> None:
        """Kill the workers of these flows without waiting; `stop` must follow."""
        for flow in self._started:
            flow.kill_workers()
