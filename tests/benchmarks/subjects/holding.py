"""A flow that keeps its tasks until it is allowed to finish them; imports no FastAPI, since workers import it."""

from __future__ import annotations

import fcntl

import numpy as np

from fastapi_aqueduct import BaseTask, BaseTaskHandler, Flow, FlowStep, Upload


class Body(BaseTask):
    def __init__(self, body: Upload) -> None:
        super().__init__()
        self.body = body
        self.total: int | None = None


class Read(BaseTaskHandler):
    """Touches every page, as any work on the body would."""

    def handle(self, *tasks: Body) -> None:
        for task in tasks:
            task.total = int(np.frombuffer(task.body, np.uint8).max())


class Wait(BaseTaskHandler):
    """Finishes a task when the gate is unlocked."""

    def __init__(self, gate: str) -> None:
        self._gate = gate

    def handle(self, *tasks: Body) -> None:
        with open(self._gate, "rb") as gate:
            fcntl.flock(gate, fcntl.LOCK_SH)


def make_flow(gate: str) -> Flow:
    return Flow(FlowStep(Read()), FlowStep(Wait(gate)))
