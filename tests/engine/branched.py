"""The steps of flows with groups, and the tasks that tell them what to do."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from fastapi_aqueduct import BaseTask, BaseTaskHandler, Flow, FlowStep

from ..handlers import DEADLINE, Gate, note

NAMES = ("first", "left", "right", "up", "down", "far", "last")
"""``first, [left, (right, [up, down], far)], last``"""


class Plan(BaseTask):
    """A task that each step marks with its name.

    Args:
        size: Bytes of what each step sets.
        acts: What else the steps do, by their names: the name of a function here.
        skipped: The steps whose conditions it does not meet.
        path: A directory of the test.
    """

    def __init__(self, size: int, acts: dict[str, str], skipped: tuple[str, ...], path: Path) -> None:
        self.size = size
        self.acts = acts
        self.skipped = skipped
        self.path = path
        self.data = bytes(size)
        self.array = np.zeros(size, np.uint8)
        self.visited: list[str] = ["caller"]


class Meets:
    """The condition of a step.

    Args:
        name: Name of the step.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, task: Plan) -> bool:
        if task.acts.get(self.name) == "condition raises":
            raise LookupError(f"the condition of {self.name}")
        return self.name not in task.skipped


class Act(BaseTaskHandler):
    """Marks tasks and does what they tell.

    Args:
        name: Name of the step.
        version: Its version.
    """

    def __init__(self, name: str, version: int = 1) -> None:
        self.name = name
        self.version = version

    def handle(self, *tasks: Any) -> Any:
        for task in tasks:
            self.work(task)

    def work(self, task: Any) -> None:
        # What branches before the group do not see of each other, and those behind it see.
        setattr(task, f"seen_by_{self.name}", sorted(name for name in NAMES if hasattr(task, f"by_{name}")))
        setattr(task, f"by_{self.name}", self.name.encode() * task.size)
        setattr(task, f"version_of_{self.name}", self.version)
        act = task.acts.get(self.name)
        if act is not None:
            ACTS[act](task, self.name)


class Yields(Act):
    """As a generator."""

    def handle(self, *tasks: Any) -> Any:
        (task,) = tasks
        for number in range(3):
            yield self.name, number
        self.work(task)


class Awaits(Act):
    """As a coroutine."""

    async def handle(self, *tasks: Any) -> Any:
        for task in tasks:
            await asyncio.sleep(0)
            for number in range(3):
                task.emit((self.name, number))
            self.work(task)


class YieldsAsync(Act):
    """As an asynchronous generator."""

    async def handle(self, *tasks: Any) -> Any:
        (task,) = tasks
        for number in range(3):
            await asyncio.sleep(0)
            yield self.name, number
        self.work(task)


class InRounds(Act):
    """In rounds, which tasks join and leave."""

    def handle(self, *tasks: Any) -> Any:
        numbers: dict[str, int] = {}
        for live in self.rounds(tasks):
            for task in live:
                number = numbers[task.task_id] = numbers.get(task.task_id, -1) + 1
                if number < 3:
                    task.emit((self.name, number))
                else:
                    self.work(task)
                    task.finish()


def step(name: str, kind: type[Act] = Act, **options: Any) -> FlowStep:
    return FlowStep(kind(name), Meets(name), name=name, **options)


def branched(method: Any = "forkserver", **options: Any) -> Flow:
    """Make the flow of `NAMES`."""
    first, left, right, up, down, far, last = (step(name) for name in NAMES)
    return Flow(first, [left, (right, [up, down], far)], last, mp_start_method=method, **options)


def raise_error(task: Any, name: str) -> None:
    raise ValueError(f"{name} has failed")


def fail(task: Any, name: str) -> None:
    task.fail(ValueError(f"{name} has failed"))


def set_same(task: Any, name: str) -> None:
    task.same = name


def delete_data(task: Any, name: str) -> None:
    del task.data


def append(task: Any, name: str) -> None:
    task.visited.append(name)


def replace_array(task: Any, name: str) -> None:
    task.array = task.array + 1


def unpicklable(task: Any, name: str) -> None:
    task.lock = lambda: None


def enter_gate(task: Any, name: str) -> None:
    Gate(task.path, name).enter()


def hold(task: Any, name: str) -> None:
    Gate(task.path, "held").enter()


def raise_while_held(task: Any, name: str) -> None:
    """Raise when another branch is in a worker's hands."""
    deadline = time.monotonic() + DEADLINE
    while not Gate(task.path, "held").is_entered() and time.monotonic() < deadline:
        time.sleep(0.002)
    raise ValueError(f"{name} has failed")


def die(task: Any, name: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(task: Any, name: str) -> None:
    mark = task.path / f"{name}.died"
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def note_run(task: Any, name: str) -> None:
    note(task.path / "runs", name)


def note_order(task: Any, name: str) -> None:
    note(task.path.parent / "order", task.path.name)


def emit(task: Any, name: str) -> None:
    for number in range(3):
        task.emit((name, number))


def emit_large(task: Any, name: str) -> None:
    for number in range(40):
        task.emit((name, number, bytes(1 << 20)))


ACTS = {
    function.__name__: function
    for function in (
        *(raise_error, fail, set_same, delete_data, append, replace_array, unpicklable, enter_gate, die, die_once),
        *(note_run, note_order, emit, emit_large, hold, raise_while_held),
    )
}
ACTS["condition raises"] = lambda task, name: None
