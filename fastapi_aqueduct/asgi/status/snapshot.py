"""The document that the status page shows."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...flow import FlowStatistics
from ..flow_set import FlowJobs
from ..probes import Health
from .actions import Actions
from .flow_view import FlowView
from .history import History


class Snapshot:
    """Makes the document.

    Args:
        look: Returns the statistics of all flows, and their health.
        views: Describe the flows.
        jobs: Their jobs; None: there are none.
        actions: The changes that the page has made.
    """

    def __init__(
        self,
        look: Callable[[], tuple[Sequence[FlowStatistics], Health]],
        views: Sequence[FlowView],
        jobs: FlowJobs | None,
        actions: Actions,
    ) -> None:
        self._look = look
        self._views = views
        self._jobs = jobs
        self._actions = actions
        self._history = History()

    async def make(self) -> bytes:
        """Return the document as JSON, in one line of ASCII."""
        # They are read from a file.
        jobs = await asyncio.to_thread(self._jobs.statistics) if self._jobs is not None else {}
        statistics, health = self._look()
        seconds, before = self._history.add({flow.name: flow for flow in statistics})
        flows = [
            {**view.describe(now, before.get(now.name), seconds), "jobs": _describe_jobs(jobs, now.name)}
            for view, now in zip(self._views, statistics, strict=True)
        ]
        document = {
            "time": time.time(),
            "window": seconds,
            "process": {"pid": os.getpid(), "host": platform.node()},
            "status": health.status,
            "reasons": list(health.reasons),
            "flows": flows,
            "actions": self._actions.recent(),
        }
        return json.dumps(document, separators=(",", ":")).encode()


def _describe_jobs(jobs: Mapping[str, Any], flow: str) -> dict[str, Any] | None:
    found = jobs.get(flow)
    return None if found is None else found._asdict()
