"""One step of fastapi_aqueduct that does next to nothing."""

from __future__ import annotations

import asyncio
import sys

from fastapi_aqueduct import BaseTask, BaseTaskHandler, Flow, FlowStep

from ..subject import say
from .callers import drive


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
        say(await drive(lambda: flow.process(Task(1), timeout_sec=60), callers))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
