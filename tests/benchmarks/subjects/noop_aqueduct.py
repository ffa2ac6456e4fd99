"""The same step as in `noop`, of the package ``aqueduct``."""

from __future__ import annotations

import asyncio
import logging
import sys

from aqueduct import BaseTask, BaseTaskHandler, Flow, FlowStep

from ..subject import say, wait_for_end
from .callers import Callers, make_loop


class Task(BaseTask):  # type: ignore[misc]  # the package has no types
    def __init__(self, value: int) -> None:
        super().__init__()
        self.value = value
        self.result: int | None = None


class Copy(BaseTaskHandler):  # type: ignore[misc]
    def handle(self, *tasks: Task) -> None:
        for task in tasks:
            task.result = task.value


def main(loop_name: str, callers: int) -> None:
    logging.getLogger("aqueduct").setLevel(logging.WARNING)
    flow = Flow(FlowStep(Copy()))
    loop = make_loop(loop_name)
    # It asks for the loop of the thread, before that loop runs.
    asyncio.set_event_loop(loop)
    flow.start()
    say(loop.run_until_complete(Callers(lambda: flow.process(Task(1), timeout_sec=60), callers).drive()))
    wait_for_end()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
