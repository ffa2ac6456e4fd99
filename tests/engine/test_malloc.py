"""A worker keeps the memory that a batch has freed for the next one, until it is idle."""

from __future__ import annotations

import sys

import pytest

from fastapi_aqueduct import Flow
from fastapi_aqueduct.engine.system.malloc import keep_freed_memory
from fastapi_aqueduct.engine.system.process_memory import private_memory
from fastapi_aqueduct.engine.timing import Timing

from .. import handlers
from ..handlers import DEADLINE, Each, Job
from ..support import eventually, pids, running

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc's heap")

PAGES = sum(handlers.BUFFERS) // 4096


async def faults(flow: Flow) -> int:
    return int((await flow.process(Job(faults=0), DEADLINE)).faults)


async def test_the_buffers_of_a_batch_are_used_again_by_the_next() -> None:
    async with running(Flow(Each(handlers.knead))) as flow:
        first = await faults(flow)
        assert first >= PAGES / 2
        await faults(flow)  # objects that the first call has left, such as caches, may lie between its buffers
        again = [await faults(flow) for _ in range(3)]
        assert max(again) < first / 20


async def test_an_idle_worker_gives_them_back() -> None:
    async with running(Flow(Each(handlers.knead), timing=Timing(idle_time=0.2))) as flow:
        (pid,) = pids(flow)
        at_rest = private_memory(pid) or 0
        await faults(flow)
        await eventually(lambda: (private_memory(pid) or 0) < at_rest + (8 << 20))
        assert await faults(flow) >= PAGES / 2


async def test_the_environment_decides_where_it_says_something(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert keep_freed_memory(1 << 20, 1 << 20) is False
    async with running(Flow(Each(handlers.knead))) as flow:
        await faults(flow)
        assert await faults(flow) >= PAGES / 2
