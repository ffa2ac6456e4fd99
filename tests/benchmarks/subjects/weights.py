"""Starts workers with a large model, lets them work, kills one, and tells what that took."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from pathlib import Path

from fastapi_aqueduct import Flow, FlowStep
from fastapi_aqueduct.logger import log

from ..processes import Footprint, tree
from ..subject import say, wait_for_end
from . import heavy

CALLS = 4
"""Calls for each worker before the memory is read."""

AGE = 0.7
"""Seconds that a worker has been there when it is killed: a younger one is not replaced at once."""


def ready(flow: Flow) -> list[int]:
    """List the workers that are ready."""
    return [worker.pid for worker in flow.statistics().steps[0].workers if worker.pid and worker.state == "ready"]


def private_memory(pid: int) -> int:
    """Return the bytes of a process that it shares with no other one."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Private_"))


async def main(way: str, workers: int) -> None:
    log.setLevel(logging.CRITICAL)  # the death is no news here
    flow = Flow(FlowStep(heavy.Answer(), nprocs=workers), template=heavy.load if way == "template" else None)
    launched = time.monotonic()
    async with flow:
        start = time.monotonic() - launched
        for _ in range(CALLS):
            await asyncio.gather(*[flow.process(heavy.Question(), timeout_sec=30) for _ in range(workers)])
        private = max(private_memory(pid) for pid in ready(flow))
        total = Footprint(tree(os.getpid())[1:]).total
        await asyncio.sleep(AGE)
        (killed, *_) = ready(flow)
        os.kill(killed, signal.SIGKILL)
        began = time.monotonic()
        while killed in (pids := ready(flow)) or len(pids) < workers:
            await asyncio.sleep(0.001)
        say({"start": start, "private": private, "total": total, "further": time.monotonic() - began})
    wait_for_end()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
