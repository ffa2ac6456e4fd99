"""The same step as in `noop`, of the package ``aqueduct``."""

from __future__ import annotations

import asyncio
import logging
import sys

from aqueduct import BaseTask, BaseTaskHandler, Flow, FlowStep

from ..subject import say
from .callers import drive


class Task(BaseTask):  # type: ignore[misc]  # the package has no types
    def __init__(self, value: int) -> None:
        super().__init__()
        self.value = value
        self.result: int | None = None


class Copy(BaseTaskHandler):  # type: ignore[misc]
    def handle(self, *tasks: Task) -> None:
        for task in tasks:
            task.result = task.value


def main(callers: int) -> None:
    logging.getLogger("aqueduct").setLevel(logging.WARNING)
    flow = Flow(FlowStep(Copy()))
    loop = asyncio.new_event_loop()
    # It asks for the loop of the thread, before that loop runs.
    asyncio.set_event_loop(loop)
    flow.start()
    say(loop.run_until_complete(drive(lambda: flow.process(Task(1), timeout_sec=60), callers)))


if __name__ == "__main__":
    main(int(sys.argv[1]))
