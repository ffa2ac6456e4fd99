"""Lets a step fall asleep, and tells how long the task that wakes it has waited."""

from __future__ import annotations

import asyncio
import os
import sys
import time

from fastapi_aqueduct import Autoscale, BaseTask, BaseTaskHandler, Flow, FlowStep

from ..processes import MIB, Footprint, tree
from ..subject import say, wait_for_end

LOAD = 0.5
MODEL = 200 * MIB


class Question(BaseTask):
    def __init__(self) -> None:
        super().__init__()
        self.load = 0.0


class Model(BaseTaskHandler):
    """Says how long it took to load."""

    def on_start(self) -> None:
        begun_at = time.monotonic()
        self.weights = b"\1" * MODEL
        time.sleep(max(0.0, begun_at + LOAD - time.monotonic()))
        self.load = time.monotonic() - begun_at

    def handle(self, *tasks: Question) -> None:
        for task in tasks:
            task.load = self.load


async def main(method: str) -> None:
    step = FlowStep(Model(), nprocs=Autoscale(0, 1, idle_after=0.5))
    async with Flow(step, mp_start_method="spawn" if method == "spawn" else "forkserver") as flow:
        await flow.process(Question())
        awake = memory()
        while flow.statistics().steps[0].workers:
            await asyncio.sleep(0.01)
        asleep = memory()
        question = Question()
        begun_at = time.monotonic()
        await flow.process(question, timeout_sec=30)
        answer = time.monotonic() - begun_at
        say(
            {
                "answer": answer,
                "load": question.load,
                "beyond": answer - question.load,
                "awake": awake,
                "asleep": asleep,
            }
        )
        wait_for_end()


def memory() -> float:
    """Return the MiB of all other processes."""
    return Footprint([pid for pid in tree(os.getpid()) if pid != os.getpid()]).total / MIB


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
