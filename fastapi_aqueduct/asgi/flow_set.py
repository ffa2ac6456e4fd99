"""The flows of an application: started together, stopped together."""

from __future__ import annotations

import asyncio

from ..flow import Flow, FlowState


class FlowSet:
    """Starts and stops flows together. A flow that runs already is used, and is not stopped.

    Args:
        flows: The flows.
    """

    def __init__(self, flows: tuple[Flow, ...]) -> None:
        self._flows = flows
        self._started: list[Flow] = []

    async def start(self) -> None:
        """Start the flows that do not run, and wait until all are ready.

        Raises:
            StartError, StartTimeout: The first failure; the flows that were started are stopped again.
        """
        self._started = [flow for flow in self._flows if flow.state is not FlowState.RUNNING]
        for flow in self._flows:
            if flow not in self._started:
                flow.adopt()  # calls from before the start of the server's loop run in a background loop
        starts = [asyncio.create_task(flow.start_async()) for flow in self._started]
        try:
            # The first failure ends the others, which may load models for minutes.
            await asyncio.gather(*starts)
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
        results = await asyncio.gather(*(flow.stop(graceful) for flow in self._started), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def end_streams(self) -> None:
        """End the open streams of all flows, also of those that ran before: servers wait for open responses."""
        for flow in self._flows:
            flow.end_streams()

    def end_streams_later(self) -> list[asyncio.TimerHandle]:
        """Have the open streams of each flow end after its `stop_timeout`; return the timers."""
        loop = asyncio.get_running_loop()
        return [loop.call_later(flow.stop_timeout, flow.end_streams) for flow in self._flows]

    def kill_workers(self) -> None:
        """Kill the workers of these flows without waiting; `stop` must follow."""
        for flow in self._started:
            flow.kill_workers()
