"""Queues of jobs in tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi_aqueduct import BaseTaskHandler, Flow
from fastapi_aqueduct.jobs.queue import JobQueue
from fastapi_aqueduct.testing import inline


@asynccontextmanager
async def queue_of(handlers: BaseTaskHandler | Flow, path: Path, **options: Any) -> AsyncIterator[JobQueue]:
    """Run a queue for a flow, or for that of one handler; handlers work in threads."""
    flow = handlers if isinstance(handlers, Flow) else Flow(handlers, stop_timeout=0.0)
    async with inline(flow):
        queue = JobQueue(path / "jobs.db", **options)
        await queue.start([flow])
        try:
            yield queue
        finally:
            await queue.stop()
