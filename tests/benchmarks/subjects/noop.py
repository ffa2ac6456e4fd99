"""One step of fastapi_aqueduct that does next to nothing."""

from __future__ import annotations

import asyncio
import sys

from fastapi_aqueduct import BaseTask, BaseTaskHandler, Flow, FlowStep

from ..subject import say, wait_for_end
from .callers import Callers, make_loop


class Task(BaseTask):
    def __init__(self, value: int) -> None:
        super().__init__()
        self.value = value
        self.result: int | None = None


class Copy(BaseTaskHandler):
    def handle(self, *tasks: Task) -> None:
        for task in tasks:
            task.result = task.value


async def main(callers: int) -> None:
    async with Flow(FlowStep(Copy())) as flow:
        say(await Callers(lambda: flow.process(Task(1), timeout_sec=60), callers).drive())
        wait_for_end()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=lambda: make_loop(sys.argv[1])) as runner:
        runner.run(main(int(sys.argv[2])))
