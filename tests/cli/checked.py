"""Flows of users, of which each has one thing that a check finds."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastapi_aqueduct import (
    Autoscale,
    BaseTask,
    BaseTaskHandler,
    Cost,
    FlowStep,
    ModelPool,
    WorkerOptions,
    in_worker,
    worker_info,
)

from ..support import DEADLINE, forked

CALL = 0.02
"""Seconds of a call whose time is looked at."""


@dataclass
class Scan(BaseTask):
    """A task with fields of several kinds."""

    image: Any
    names: list[Any] = field(default_factory=list)
    seconds: float = 0.0
    pixels: Any = field(default=None, init=False)
    total: float = field(default=0.0, init=False)
    words: list[str] = field(default_factory=list, init=False)


def make_task() -> Scan:
    return Scan(b"x" * 100_000, ["a", "b"])


def make_lambda() -> Scan:
    return Scan(b"", [{"key": lambda: None}])


def make_nothing() -> list[Scan]:
    return []


def make_error() -> Scan:
    raise LookupError("no file for the sample")


class Decode(BaseTaskHandler):
    def handle(self, *tasks: Scan) -> None:
        print("a print of a worker")
        for task in tasks:
            task.pixels = np.frombuffer(task.image, np.uint8).astype(np.float32)


class Sum(BaseTaskHandler):
    """The time of a call does not depend on the number of its tasks."""

    def on_start(self) -> None:
        self.model = np.ones(2_000_000)

    def handle(self, *tasks: Scan) -> None:
        time.sleep(CALL)
        for task in tasks:
            task.total = float(task.pixels.sum())
            task.image = None


good = forked(FlowStep(Decode(), name="decode"), FlowStep(Sum(), batch_size=4, name="sum"), name="good")


class Large(BaseTaskHandler):
    """Is made with its model, and returns a value."""

    def __init__(self) -> None:
        self.model = np.ones(300_000)
        self.name = "model"

    def handle(self, *tasks: Scan) -> int:
        return len(tasks)


class OneByOne(BaseTaskHandler):
    def handle(self, *tasks: Scan) -> None:
        time.sleep(CALL * len(tasks))
        for task in tasks:
            task.words = [f"word {number} " * 20 for number in range(1000)]


def cost_of(task: Scan) -> int:
    return 3


costly = forked(FlowStep(OneByOne(), batch_size=4, batch_cost=Cost(cost_of, limit=7), name="costly"))


class Cold(BaseTaskHandler):
    """Loads its model in the first call."""

    is_warm = False

    def handle(self, *tasks: Scan) -> None:
        if not self.is_warm:
            time.sleep(0.6)
        self.is_warm = True


class Parallel(BaseTaskHandler):
    """Computes in threads of its own."""

    def on_start(self) -> None:
        self.pool = ThreadPoolExecutor(3)

    def handle(self, *tasks: Scan) -> None:
        list(self.pool.map(_compute, range(3)))

    def on_stop(self) -> None:
        self.pool.shutdown()


def _compute(number: int) -> None:
    hashlib.sha256(b"x" * 20_000_000).digest()  # without the lock of the interpreter


def never(task: Scan) -> bool:
    return False


class Idle(BaseTaskHandler):
    def handle(self, *tasks: Scan) -> None:
        pass


troubled = forked(
    FlowStep(Large(), name="large"),
    FlowStep(OneByOne(), name="one-by-one", batch_size=4),
    FlowStep(Cold(), name="cold"),
    FlowStep(Parallel(), name="parallel", worker=WorkerOptions(threads=1)),
    FlowStep(Idle(), name="unvisited", handle_condition=never),
    FlowStep(Idle(), name="asleep", nprocs=Autoscale(0, 1), worker=WorkerOptions(threads=1000)),
    name="troubled",
)


class Locked(BaseTaskHandler):
    def __init__(self) -> None:
        self.clients = {"a": [threading.Lock()]}

    def handle(self, *tasks: Scan) -> None:
        pass


locked = forked(FlowStep(Locked(), name="locked"))


class FailsToStart(BaseTaskHandler):
    def on_start(self) -> None:
        raise FileNotFoundError("weights.onnx")

    def handle(self, *tasks: Scan) -> None:
        pass


fails_to_start = forked(FlowStep(FailsToStart(), name="load"))


class Raises(BaseTaskHandler):
    def handle(self, *tasks: Scan) -> None:
        self._read(tasks)

    def _read(self, tasks: tuple[Scan, ...]) -> None:
        raise KeyError("no such word")


raises = forked(FlowStep(Idle(), name="first"), FlowStep(Raises(), name="read"))


class Dies(BaseTaskHandler):
    def handle(self, *tasks: Scan) -> None:
        os._exit(7)


dies = forked(FlowStep(Dies(), name="dies", max_retries=0))


class Hangs(BaseTaskHandler):
    def handle(self, *tasks: Scan) -> None:
        threading.Event().wait()


hangs = forked(FlowStep(Hangs(), name="hangs"))


class RaisesTogether(BaseTaskHandler):
    def handle(self, *tasks: Scan) -> None:
        if len(tasks) > 1:
            raise ValueError(f"shapes of {len(tasks)} tasks differ")


together = forked(FlowStep(RaisesTogether(), name="together", batch_size=4, max_retries=0))


class Name(BaseTaskHandler):
    def handle(self, *tasks: Scan) -> None:
        for task in tasks:
            task.names.append("c")


class Words(BaseTaskHandler):
    def handle(self, *tasks: Scan) -> None:
        for task in tasks:
            task.words = [name.upper() for name in task.names]


class Total(BaseTaskHandler):
    """The time of a call does not depend on the number of its tasks."""

    def handle(self, *tasks: Scan) -> None:
        time.sleep(CALL)
        for task in tasks:
            task.total = float(task.pixels.sum())


branched = forked(
    FlowStep(Decode(), name="decode"),
    [FlowStep(Total(), batch_size=4, name="total"), (FlowStep(Name(), name="name"), FlowStep(Words(), name="words"))],
    FlowStep(Idle(), name="last"),
    name="branched",
)


class Waits(BaseTaskHandler):
    """Ends when the task does."""

    def handle(self, task: Scan) -> None:
        deadline = time.monotonic() + DEADLINE
        while not task.is_cancelled and time.monotonic() < deadline:
            time.sleep(0.005)


class HangsTogether(BaseTaskHandler):
    def handle(self, *tasks: Scan) -> None:
        if len(tasks) > 1:
            threading.Event().wait()


together_beside = forked([FlowStep(RaisesTogether(), name="together", batch_size=4, max_retries=0), Idle()])
hangs_beside = forked([FlowStep(HangsTogether(), name="hangs", batch_size=2), Idle()])

raises_beside = forked([FlowStep(Raises(), name="read"), FlowStep(Waits(), name="waits")])


class Opaque:
    """Can be rebuilt in workers only."""

    def __reduce__(self) -> Any:
        return _rebuild, ()


def _rebuild() -> Opaque:
    worker_info()
    return Opaque()


class Hides(Decode):
    def handle(self, *tasks: Scan) -> None:
        super().handle(*tasks)
        for task in tasks:
            task.names = [Opaque()]


class Adds(BaseTaskHandler):
    def handle(self, *tasks: Scan) -> None:
        for task in tasks:
            task.names = []
            task.total = float(task.pixels.sum())
            assert task.total == 100_000 * ord("x")


opaque = forked(FlowStep(Hides(), name="hides"), FlowStep(Adds(), name="adds"))


class Yields(BaseTaskHandler):
    def handle(self, task: Scan) -> Iterator[str]:
        yield from ("one", "two")


yields = forked(FlowStep(Yields(), name="yields"))


class Rounds(BaseTaskHandler):
    def handle(self, *tasks: Scan) -> None:
        for live in self.rounds(tasks):
            time.sleep(CALL * len(live))
            for task in live:
                task.total += 1
                task.emit(task.total)
                if task.total == 4:
                    task.finish()


rounds = forked(FlowStep(Rounds(), name="rounds", batch_size=2, continuous=True))


@in_worker(batch_size=2)
def lengths(texts: list[str]) -> list[int]:
    time.sleep(CALL)
    return [len(text) for text in texts]


def make_text() -> str:
    return "text"


def load_three() -> int:
    return 3


def measure(model: int, text: str) -> bool:
    return len(text) < model


pool = ModelPool({"short": load_three})


def make_call() -> tuple[Any, ...]:
    return "short", measure, "text"
