"""What runs in the workers of the tests of traces: handlers that make spans of their own, and export them to a file."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opentelemetry import baggage, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from fastapi_aqueduct import BaseTask, BaseTaskHandler, Upload, task_context

from ..handlers import act_in_round, enter_gate_if_any

tracer = trace.get_tracer("tests")


class Clip(BaseTask):
    """An upload, and the step that is to work on it."""

    def __init__(self, image: Upload, form: str = "plain") -> None:
        self.image: Upload | None = image
        self.form = form
        self.size = 0


@dataclass(frozen=True)
class Form:
    """The condition of a step for the tasks of one form."""

    name: str

    def __call__(self, task: Any) -> bool:
        return bool(task.form == self.name)


def set_up_sdk(path: Path) -> None:
    """Make the SDK of a worker write the spans to a file."""
    file = path.open("a")
    exporter = ConsoleSpanExporter(out=file, formatter=lambda span: span.to_json(indent=None) + os.linesep)
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


class Load(BaseTaskHandler):
    """Makes one span in a call."""

    def handle(self, *tasks: Any) -> None:
        with tracer.start_as_current_span("load"):
            for task in tasks:
                if isinstance(task, Clip):
                    task.size, task.image = len(task.image or b""), None


class Plain(BaseTaskHandler):
    """Makes one span in a call, and does in it what its tasks say."""

    def handle(self, *tasks: Any) -> None:
        with tracer.start_as_current_span("work") as span:
            for task in tasks:
                if baggage.get_all():
                    span.set_attribute("baggage", json.dumps(dict(baggage.get_all())))
                enter_gate_if_any(task)
                act_in_round(task, 0)


class Branch(BaseTaskHandler):
    """Makes a span with its name in a call, and does in it what the fields of its tasks say of its name.

    Args:
        name: Name of the step.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def handle(self, *tasks: Any) -> None:
        with tracer.start_as_current_span(f"work {self.name}"):
            for task in tasks:
                vars(task)[f"by_{self.name}"] = True
                if self.name in task.setting:
                    task.same = self.name
                if self.name in task.gates:
                    task.gates[self.name].enter()
                if self.name in task.failing:
                    raise ValueError(f"{self.name} has failed")


class Rounds(BaseTaskHandler):
    """Makes a span around its rounds, one in each, and one for each task."""

    def handle(self, *tasks: Any) -> None:
        with tracer.start_as_current_span("work"):
            for number, live in enumerate(self.rounds(tasks)):
                with tracer.start_as_current_span(f"round {number}"):
                    for task in live:
                        with task_context(task), tracer.start_as_current_span(f"task {task.number}"):
                            pass
                        if task.number == number:
                            task.finish()


class Generator(BaseTaskHandler):
    """Makes a span that is open while other calls have their turns."""

    def handle(self, task: Any) -> Iterator[int]:
        with tracer.start_as_current_span(f"work {task.number}"):
            for number in range(3):
                with tracer.start_as_current_span(f"item {task.number}"):
                    pass
                yield number


class Coroutine(BaseTaskHandler):
    """As `Generator`, side by side."""

    async def handle(self, task: Any) -> AsyncIterator[int]:
        with tracer.start_as_current_span(f"work {task.number}"):
            for number in range(3):
                await asyncio.sleep(0.001)
                with tracer.start_as_current_span(f"item {task.number}"):
                    pass
                yield number
