"""The work as flows of the package ``aqueduct``.

Not in the programs that serve them: their own module is still being imported when the workers fork.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from aqueduct import BaseTask, BaseTaskHandler, Flow, FlowStep

from . import work

# One line for each task and step otherwise.
logging.getLogger("aqueduct").setLevel(logging.WARNING)

TIMEOUT = 30


class Value(BaseTask):  # type: ignore[misc]  # the package has no types
    def __init__(self, value: int) -> None:
        super().__init__()
        self.value = value
        self.result = 0


class Body(BaseTask):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.body = b""
        self.result = 0


class Arrays(BaseTask):  # type: ignore[misc]
    def __init__(self, value: int) -> None:
        super().__init__()
        self.value = value
        self.array: work.Array | None = None
        self.result = 0


class Copy(BaseTaskHandler):  # type: ignore[misc]
    def handle(self, *tasks: Value) -> None:
        for task in tasks:
            task.result = task.value


class Touch(BaseTaskHandler):  # type: ignore[misc]
    def handle(self, *tasks: Body) -> None:
        for task in tasks:
            task.result = work.touch(task.body)


class Model(BaseTaskHandler):  # type: ignore[misc]
    def handle(self, *tasks: Value) -> None:
        work.run_model(len(tasks))
        for task in tasks:
            task.result = task.value


class Make(BaseTaskHandler):  # type: ignore[misc]
    def handle(self, *tasks: Arrays) -> None:
        for task in tasks:
            task.array = work.make_array(task.value)
            task.share_value("array")


class Pass(BaseTaskHandler):  # type: ignore[misc]
    def handle(self, *tasks: Arrays) -> None:
        pass


class Finish(BaseTaskHandler):  # type: ignore[misc]
    def handle(self, *tasks: Arrays) -> None:
        for task in tasks:
            assert task.array is not None
            task.result = work.last_of(task.array)


FLOWS: dict[str, Callable[[], Any]] = {
    "noop": lambda: Flow(FlowStep(Copy())),
    "upload": lambda: Flow(FlowStep(Touch())),
    "steps-3": lambda: Flow(FlowStep(Make()), FlowStep(Pass()), FlowStep(Finish())),
    "batching": lambda: Flow(FlowStep(Model(), batch_size=work.BATCH_SIZE, batch_timeout=work.BATCH_WAIT)),
}
"""What makes the flow of each work."""
