"""Flows whose costs are known, for tests of ``tune``."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

from fastapi_aqueduct import BaseTask, BaseTaskHandler, Flow, FlowStep, in_worker
from fastapi_aqueduct.step import Part


def forked(*steps: Part, **options: Any) -> Flow:
    """Make a flow whose workers come from the forkserver, which takes less time."""
    return Flow(*steps, mp_start_method="forkserver", **options)


FIXED, EACH = 0.02, 0.001
"""Seconds of a call of `Device`."""


@dataclass
class Word(BaseTask):
    """A task.

    Attributes:
        text: Decides the steps that it visits.
        device: Whether the step of this name has had it.
        spelled: Whether `Spell` has.
        asked: Whether `Ask` has.
    """

    text: str
    device: bool = field(default=False)
    spelled: bool = field(default=False, init=False)
    asked: bool = field(default=False, init=False)


def is_long(task: Word) -> bool:
    return len(task.text) > 3


def is_never(task: Word) -> bool:
    return False


class Device(BaseTaskHandler):
    """Waits for a device, which takes a batch of eight at most."""

    def handle(self, *tasks: Word) -> None:
        if len(tasks) > 8:
            raise ValueError("the device has 8 places")
        time.sleep(FIXED + EACH * len(tasks))
        for task in tasks:
            assert not task.device, "each task is a new one"
            task.device = True


class Spell(BaseTaskHandler):
    """Yields letters, of long words only."""

    def handle(self, task: Word) -> Iterator[str]:
        assert task.device and not task.asked
        for letter in task.text:
            time.sleep(0.001)
            yield letter
        task.spelled = True


class Ask(BaseTaskHandler):
    """Waits for another machine, in an event loop."""

    async def handle(self, task: Word) -> None:
        assert task.device and task.spelled == is_long(task)
        await asyncio.sleep(0.02)
        task.asked = True


class Join(BaseTaskHandler):
    """Gets what the others have set."""

    def handle(self, *tasks: Word) -> None:
        for task in tasks:
            assert task.asked
            assert task.spelled == is_long(task)


class Never(BaseTaskHandler):
    def handle(self, *tasks: Word) -> None:
        raise AssertionError("no task comes here")


flow = Flow(
    FlowStep(Device(), batch_size=2, name="device"),
    FlowStep(Spell(), handle_condition=is_long, name="spell"),
    FlowStep(Ask(), concurrency=16, name="ask"),
    FlowStep(Never(), handle_condition=is_never, name="never"),
    FlowStep(Join(), name="join"),
    name="words",
)


def make_words() -> list[Word]:
    return [Word("a"), Word("long word"), Word("b"), Word("word")]


class Normalise(BaseTaskHandler):
    """Computes for 5 ms."""

    def handle(self, *tasks: Word) -> None:
        for _ in tasks:
            end = time.thread_time() + 0.005
            while time.thread_time() < end:
                pass


class Classify(BaseTaskHandler):
    """Waits for a device, in batches of any size."""

    def handle(self, *tasks: Word) -> None:
        time.sleep(FIXED + EACH / 2 * len(tasks))


shown = Flow(FlowStep(Normalise(), name="normalise"), FlowStep(Classify(), name="classify"), name="articles")
"""The flow of the picture in the documentation."""


class Fail(BaseTaskHandler):
    def handle(self, *tasks: Word) -> None:
        raise ValueError("not a word")


failing = Flow(FlowStep(Fail(), name="fail"), name="failing")


@in_worker(batch_size=4)
def lengths(texts: list[str]) -> list[int]:
    time.sleep(0.005 + 0.0001 * len(texts))
    return [len(text) for text in texts]


@in_worker
async def letters(text: str) -> AsyncIterator[str]:
    for letter in text:
        yield letter


def make_text() -> str:
    return "text"


@dataclass
class Item(BaseTask):
    """A task.

    Attributes:
        key: The key of its batches, and its tenant.
        cost: What it costs in a batch.
        value: Anything.
    """

    key: str = "one"
    cost: int = 1
    value: Any = None


class Finished(Item):
    """A task that hides a method which only streams need."""

    finish = None  # type: ignore[assignment]


class Wait(BaseTaskHandler):
    """Waits for a device, for one task at a time.

    Args:
        seconds: For how long.
        name: The field that it sets.
        stop: For how long it waits when its worker stops.
    """

    def __init__(self, seconds: float = 0.01, name: str = "waited", stop: float = 0.0) -> None:
        self.seconds = seconds
        self.name = name
        self.stop = stop

    def handle(self, task: Item) -> None:
        print("a print of a worker", flush=True)
        time.sleep(self.seconds)
        setattr(task, self.name, True)

    def on_stop(self) -> None:
        time.sleep(self.stop)


class Fragile(BaseTaskHandler):
    """Does two tasks at once, and not three.

    Args:
        how: What happens then.
    """

    def __init__(self, how: str = "raise") -> None:
        self.how = how

    def handle(self, *tasks: Item) -> None:
        time.sleep(0.01)
        if len(tasks) < 3:
            return
        if self.how == "die":
            os._exit(1)
        if self.how == "hang":
            time.sleep(3600)
        raise ValueError("three are too many")


class Talk(Wait):
    """Prints."""

    def handle(self, task: Item) -> None:
        print("a print of a worker", flush=True)
        super().handle(task)


spoken = Flow(FlowStep(Talk(), name="talk"), name="spoken")
"""A flow that takes little time. Its workers have the stdout of the command, not that of a forkserver."""


def make_items() -> Iterator[Item]:
    yield Item("one")
    yield Item("two")
