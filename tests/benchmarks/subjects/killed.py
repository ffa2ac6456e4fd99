"""Kills a worker of a busy flow and tells when the next one serves."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time

from fastapi_aqueduct import BaseTask, BaseTaskHandler, Flow, FlowStep
from fastapi_aqueduct.logger import log

from ..subject import say, wait_for_end

CALLERS_PER_WORKER = 4
BEFORE = 0.2
"""Seconds of work before the kill."""


class Question(BaseTask):
    def __init__(self) -> None:
        super().__init__()
        self.pid = 0


class Answer(BaseTaskHandler):
    """Says who it is."""

    def handle(self, *tasks: Question) -> None:
        for task in tasks:
            task.pid = os.getpid()


class Load:
    """Callers that ask all the time.

    Args:
        flow: Whom they ask.
    """

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._last_answer = time.monotonic()
        self._known: set[int] = set()
        self.failed = 0
        self.longest_pause = 0.0
        self.stranger = asyncio.Event()

    def expect(self, known: set[int]) -> None:
        """Begin to look for an answer of another worker, and for the longest time without any answer."""
        self._known = known
        self.longest_pause = 0.0

    async def call(self) -> None:
        """Ask until the end."""
        while True:
            question = Question()
            try:
                await self._flow.process(question, timeout_sec=30)
            except Exception:
                self.failed += 1
                continue
            now = time.monotonic()
            self.longest_pause = max(self.longest_pause, now - self._last_answer)
            self._last_answer = now
            if self._known and question.pid not in self._known:
                self.stranger.set()


async def main(workers: int) -> None:
    log.setLevel(logging.CRITICAL)  # the death is no news here
    launched = time.monotonic()
    async with Flow(FlowStep(Answer(), nprocs=workers)) as flow:
        start = time.monotonic() - launched
        load = Load(flow)
        callers = [asyncio.create_task(load.call()) for _ in range(CALLERS_PER_WORKER * workers)]
        await asyncio.sleep(BEFORE)
        pids = [worker.pid for worker in flow.statistics().steps[0].workers if worker.pid]
        load.expect(set(pids))
        killed = time.monotonic()
        os.kill(pids[0], signal.SIGKILL)
        await load.stranger.wait()
        say(
            {
                "recovery": time.monotonic() - killed,
                "pause": load.longest_pause,
                "failed": load.failed,
                "start": start,
            }
        )
        for caller in callers:
            caller.cancel()
        wait_for_end()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
