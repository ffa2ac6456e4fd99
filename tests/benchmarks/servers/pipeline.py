"""The work as flows of fastapi_aqueduct; the workers import this module, so no web framework in here."""

from __future__ import annotations

import time
from collections.abc import Callable

from pydantic import BaseModel

from fastapi_aqueduct import BaseTask, BaseTaskHandler, Flow, FlowStep, RayActor, Upload, WorkerOptions

from . import work


class Item(BaseModel):
    """The JSON that comes and goes."""

    value: int


class Value(BaseTask):
    """A number that comes back."""

    def __init__(self, value: int) -> None:
        super().__init__()
        self.value = value
        self.result = 0


class ItemValue(Value):
    """The same, from a JSON body."""

    def __init__(self, item: Item) -> None:
        super().__init__(item.value)


class Body(BaseTask):
    """An upload."""

    def __init__(self, body: Upload) -> None:
        super().__init__()
        self.body = body
        self.result = 0


class Arrays(BaseTask):
    """A number of which an array is made."""

    def __init__(self, item: Item) -> None:
        super().__init__()
        self.value = item.value
        self.result = 0
        self.array: work.Array | None = None


class Copy(BaseTaskHandler):
    def handle(self, *tasks: Value) -> None:
        for task in tasks:
            task.result = task.value


class Touch(BaseTaskHandler):
    def handle(self, *tasks: Body) -> None:
        for task in tasks:
            task.result = work.touch(task.body)


class Wait(BaseTaskHandler):
    def handle(self, *tasks: Value) -> None:
        time.sleep(work.DEVICE_TIME)
        for task in tasks:
            task.result = task.value


class Model(BaseTaskHandler):
    def handle(self, *tasks: Value) -> None:
        work.run_model(len(tasks))
        for task in tasks:
            task.result = task.value


class Make(BaseTaskHandler):
    def handle(self, *tasks: Arrays) -> None:
        for task in tasks:
            task.array = work.make_array(task.value)


class Large(BaseTaskHandler):
    def on_start(self) -> None:
        self.array = work.make_array(1, work.LARGE_ARRAY_SIZE)

    def handle(self, *tasks: Arrays) -> None:
        for task in tasks:
            task.array = self.array


class Pass(BaseTaskHandler):
    def handle(self, *tasks: Arrays) -> None:
        pass


class Finish(BaseTaskHandler):
    def handle(self, *tasks: Arrays) -> None:
        for task in tasks:
            assert task.array is not None
            task.result = work.last_of(task.array)
            task.array = None


class MakeAndFinish(BaseTaskHandler):
    def handle(self, *tasks: Arrays) -> None:
        for task in tasks:
            task.result = work.last_of(work.make_array(task.value))


BUSY_POLL = 0.005
"""Seconds; longer than one request over one connection takes."""

REMOTE_NODE = "127.0.0.3"
"""The resource of the node of a Ray cluster that has the models: its address, as in the cluster of the tests."""


def make_remote(handler: BaseTaskHandler) -> Flow:
    """Make a flow whose handler runs in an actor, in the cluster of RAY_ADDRESS."""
    placement = RayActor(num_cpus=0, resources={REMOTE_NODE: 1})
    return Flow(FlowStep(handler, batch_size=work.ACTOR_BATCH_SIZE, worker=WorkerOptions(placement=placement)))


FLOWS: dict[str, Callable[[], Flow]] = {
    "noop": lambda: Flow(FlowStep(Copy())),
    "noop-poll": lambda: Flow(FlowStep(Copy(), busy_poll=BUSY_POLL)),
    "noop-device": lambda: Flow(FlowStep(Wait(), nprocs=work.DEVICES)),
    "upload": lambda: Flow(FlowStep(Touch())),
    "upload-unadjusted": lambda: Flow(FlowStep(Touch())),
    "noop-actor": lambda: make_remote(Copy()),
    "upload-actor": lambda: make_remote(Touch()),
    "response": lambda: Flow(FlowStep(Large())),
    "steps-1": lambda: Flow(FlowStep(MakeAndFinish())),
    "steps-2": lambda: Flow(FlowStep(Make()), FlowStep(Finish())),
    "steps-3": lambda: Flow(FlowStep(Make()), FlowStep(Pass()), FlowStep(Finish())),
    "batching": lambda: Flow(FlowStep(Model(), batch_size=work.BATCH_SIZE, batch_timeout=work.BATCH_WAIT)),
    "batching-auto": lambda: Flow(FlowStep(Model(), batch_size=work.BATCH_SIZE, batch_timeout="auto")),
}
"""What makes the flow of each work; nothing is started here."""
