"""Large handlers on their way to the workers."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest

from fastapi_aqueduct import Flow, FlowStep

from ..handlers import Heavy, Job
from ..support import DEADLINE, eventually, pids, running

MIB = 1 << 20


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
async def test_a_large_handler_reaches_its_workers_beside_the_arena_and_in_no_time(start_method: Any) -> None:
    """Also the one that replaces a worker; a descriptor or a copy that stays would be seen after the test."""
    started_at = time.monotonic()
    flow = Flow(FlowStep(Heavy(96 * MIB), nprocs=2), memory_limit=MIB, mp_start_method=start_method)
    async with running(flow):
        assert time.monotonic() - started_at < DEADLINE
        assert flow.statistics().arena.touched == 0
        before = pids(flow)
        assert (await flow.process(Job())).size == 96 * MIB
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        await eventually(lambda: len(set(pids(flow)) - set(before)) == 2)
        task = await flow.process(Job())
        assert (task.size, task.pid in before) == (96 * MIB, False)
