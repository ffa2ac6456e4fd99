"""Draws how requests to the README's example form batches, from one run: ``python -m tests.benchmarks.timeline``.

Needs matplotlib (``make bench`` installs it into .venv-bench).
"""

from __future__ import annotations

import asyncio
import random
import re
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from fastapi_aqueduct.reports import TaskRecord
from fastapi_aqueduct.testing import client

from ..support import ROOT
from .plot import COLOURS, GREY, drawing

PICTURE = ROOT / "docs" / "timeline.svg"
RATE = 180
"""Requests a second, at random times."""

LEARNING = 2.0
"""Seconds of the same load before: batch_timeout="auto" learns from it."""

SHOWN = 0.4
"""Seconds of the picture."""

SEED = 7


class Visit(NamedTuple):
    """A request in the step.

    Attributes:
        arrived_at: Seconds from the beginning of the picture.
        called_at: When the call of the function began.
        answered_at: When its answer came.
        pid: The worker.
    """

    arrived_at: float
    called_at: float
    answered_at: float
    pid: int


async def run() -> list[Visit]:
    """Serve the requests, and return the visits of those that arrived in the time of the picture."""
    main: Any = import_module("main")
    records: list[TaskRecord] = []
    main.stars.flow.subscribers.append(lambda record: records.append(record._replace(task=None)))
    numbers = random.Random(SEED)
    loop = asyncio.get_running_loop()
    async with client(main.app) as http:
        begun_at = loop.time()
        requests = []
        at = 0.0
        while (at := at + numbers.expovariate(RATE)) < LEARNING + SHOWN:
            await asyncio.sleep(max(0.0, begun_at + at - loop.time()))
            requests.append(asyncio.create_task(http.post("/stars", params={"text": "a text"})))
        for response in await asyncio.gather(*requests):
            assert response.status_code == 200
    steps = sorted((record.steps[0] for record in records), key=lambda step: step.arrived_at)
    start = begun_at + LEARNING
    return [
        Visit(step.arrived_at - start, step.answered_at - step.handle_time - start, step.answered_at - start, step.pid)
        for step in steps
        if step.arrived_at >= start
    ]


def draw(visits: list[Visit], path: Path) -> None:
    """Write the picture: a line for each request, and below them the calls in each worker."""
    pids = sorted({visit.pid for visit in visits})
    calls = sorted({(visit.answered_at, visit.pid) for visit in visits})
    palette = [colour for colour in COLOURS if colour != GREY]
    colours = {call: palette[number % len(palette)] for number, call in enumerate(calls)}
    with drawing(path, 5.6, "Requests of many clients, one function, two workers") as axes:
        for row, visit in enumerate(visits):
            axes.plot([1e3 * visit.arrived_at, 1e3 * visit.called_at], [-row, -row], color=GREY, linewidth=0.8)
            called = [1e3 * visit.called_at, 1e3 * visit.answered_at]
            axes.plot(called, [-row, -row], color=colours[visit.answered_at, visit.pid], linewidth=2)
        height = len(visits) / 12
        for call in calls:
            members = [visit for visit in visits if (visit.answered_at, visit.pid) == call]
            start, end = 1e3 * members[0].called_at, 1e3 * members[0].answered_at
            y = -len(visits) - height * (1 + 1.4 * pids.index(call[1]))
            axes.barh(y, end - start, height, start, color=colours[call])
            axes.text((start + end) / 2, y, str(len(members)), color="white", ha="center", va="center", fontsize=8)
        lanes = [-len(visits) - height * (1 + 1.4 * lane) for lane in range(len(pids))]
        axes.set_yticks([-len(visits) / 2, *lanes], ["requests", *(f"worker {lane + 1}" for lane in range(len(pids)))])
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("milliseconds; grey: waits, coloured: is worked on, one colour for each call of the function")


def main() -> None:
    """Run the example and draw."""
    (source,) = re.findall(r"^```python\n(# main\.py.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "main.py").write_text(source)
        sys.path.insert(0, directory)
        draw(asyncio.run(run()), PICTURE)


if __name__ == "__main__":
    main()
