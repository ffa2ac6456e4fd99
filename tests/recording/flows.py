"""Flows whose tasks are recorded, and replayed in the process of the test."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastapi_aqueduct import BaseTask, BaseTaskHandler, Flow, FlowStep, WorkerOptions, worker_info

fixed = False
"""Whether the user has mended the code; a test changes it."""

captions: list[str] = []
"""What the last step has made."""

loaded: list[str] = []
"""What the template has loaded."""


@dataclass
class Picture(BaseTask):
    """A task for a flow with groups.

    Attributes:
        fault: What goes wrong.
        pixels: Set by the first step.
        faces: Set by the one branch, which changes it in place.
        plates: Set by the steps of the other one.
        colors: Set by branches of a group in that one.
        shapes: The same.
    """

    fault: str = ""
    pixels: Any = None
    faces: list[str] = field(default_factory=list, init=False)
    plates: list[str] = field(default_factory=list, init=False)
    colors: str = field(default="", init=False)
    shapes: str = field(default="", init=False)


class Decode(BaseTaskHandler):
    def handle(self, task: Picture) -> None:
        task.pixels = np.ones(100_000, np.uint8)


class Faces(BaseTaskHandler):
    def handle(self, task: Picture) -> None:
        task.faces.append(f"a face of {len(task.pixels)}, {len(task.plates)} plates")
        assert not task.pixels.flags.writeable


class Plates(BaseTaskHandler):
    def handle(self, task: Picture) -> None:
        task.plates = ["plate"]


class Read(BaseTaskHandler):
    def handle(self, task: Picture) -> None:
        task.plates.append("read")
        if task.fault == "branch" and not fixed:
            raise ValueError("no plate")
        if task.fault == "conflict" and fixed:
            task.faces = ["a face of another branch"]
        if task.fault == "conflict" and not fixed:
            raise ValueError("no conflict yet")


class Colors(BaseTaskHandler):
    def handle(self, task: Picture) -> None:
        task.colors = "red"


class Shapes(BaseTaskHandler):
    def handle(self, task: Picture) -> None:
        if task.fault == "nested" and not fixed:
            raise ValueError("no shape")
        task.shapes = f"round{task.colors}"


class Caption(BaseTaskHandler):
    def handle(self, task: Picture) -> None:
        captions.append(" + ".join([*task.faces, *task.plates, task.colors, task.shapes]))


def has_caption(task: Picture) -> bool:
    if task.fault == "condition" and not fixed:
        raise ValueError("no condition")
    return bool(task.faces)


pictures = Flow(
    FlowStep(Decode(), name="decode"),
    [
        FlowStep(Faces(), name="faces"),
        (
            FlowStep(Plates(), name="plates"),
            FlowStep(Read(), name="read"),
            [FlowStep(Colors(), name="colors"), FlowStep(Shapes(), name="shapes")],
        ),
    ],
    FlowStep(Caption(), has_caption, name="caption"),
    name="pictures",
)


@dataclass
class Note(BaseTask):
    """A task for a flow that needs much of its workers."""

    fault: str
    numbers: Any = None
    seen: list[str] = field(default_factory=list, init=False)


def load_template() -> None:
    loaded.append("template")


def begin_worker() -> None:
    loaded.append(f"worker of {worker_info().step}")


class First(BaseTaskHandler):
    """A coroutine, so its hooks run in the event loop, too."""

    def on_start(self) -> None:
        self.loop = asyncio.get_running_loop()

    async def handle(self, task: Note) -> None:
        assert asyncio.get_running_loop() is self.loop
        task.seen.append("first")
        if task.fault == "exit" and not fixed:
            sys.exit(0)
        if task.fault == "cancelled" and not fixed:
            raise asyncio.CancelledError
        if task.fault == "numbers":
            task.numbers[0] = 7
            assert fixed
        if task.fault == "late":
            assert not task.is_expired() and fixed


class Second(BaseTaskHandler):
    def handle(self, task: Note) -> None:
        task.seen.append(f"second on {os.environ.get('CUDA_VISIBLE_DEVICES')}")
        captions.append(" + ".join([*task.seen, *loaded]))


def bucket(task: Note) -> int:
    if task.fault == "key" and not fixed:
        raise ValueError("no key")
    return len(task.seen)


notes = Flow(
    FlowStep(First(), name="first", worker=WorkerOptions(devices=["0"])),
    FlowStep(Second(), name="second", batch_key=bucket, worker=WorkerOptions(devices=["1"])),
    name="notes",
    worker_init=begin_worker,
)

templated = Flow(
    FlowStep(First(), name="first"),
    FlowStep(Second(), name="second"),
    name="templated",
    template=load_template,
    worker_init=begin_worker,
)
