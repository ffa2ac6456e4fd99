"""The pipeline of the example: decode a picture, find its lines of text, read them.

Worker processes import this module, so it does not import a web framework. Each handler imports its models in
``on_start``, so that a worker loads only what its own step needs.
"""

import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Interval

from example_app.layout import Strip, reading_order
from example_app.pictures import Pixels, read_picture
from example_app.request_id import request_id
from fastapi_aqueduct import BaseTask, BaseTaskHandler, Flow, FlowStep, Upload, task_context

if TYPE_CHECKING:
    from example_app.finder import LineFinder
    from example_app.reader import LineReader

log = logging.getLogger(__name__)

NICE = 10
"""Niceness of the workers with models: the web server responds quickly while they use all cores."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of text.

    Attributes:
        text: The text.
        score: Confidence of the recogniser, from 0 to 1.
        box: Four points (x, y) in pixels of the upright picture, clockwise from the top left corner of the text.
    """

    text: str
    score: float
    box: list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class ReadLine(Line):
    """A line of text, sent as soon as it is read.

    Attributes:
        number: Its place in the reading order, counted from 1. Lines that are left out have a place, too.
        of: The number of lines that were found in the picture.
        event: Tells it from the other events of a stream.
    """

    number: int
    of: int
    event: Literal["line"] = "line"


class OcrTask(BaseTask):
    """A picture whose text is read.

    Args:
        image: The bytes of the picture.
        min_score: Lines with a lower score are left out.
    """

    def __init__(self, image: Upload, min_score: Annotated[float, Interval(ge=0, le=1)] = 0.5) -> None:
        super().__init__()
        self.image: Upload | None = image
        self.min_score = min_score
        self.pixels: Pixels | None = None
        self.width = 0
        self.height = 0
        self.strips: list[Strip] = []
        self.lines: list[Line] = []


class Decode(BaseTaskHandler):
    """Decodes bytes to pixels."""

    def handle(self, *tasks: OcrTask) -> None:
        """Decode each picture; bytes that are no picture raise a `PictureError`."""
        for task in tasks:
            assert task.image is not None
            task.pixels = read_picture(task.image)
            task.height, task.width = task.pixels.shape[:2]
            task.image = None  # releases its shared memory: the upload is not needed any more


class Detect(BaseTaskHandler):
    """Finds the lines of text in the pixels.

    Args:
        nice: Added to the niceness of the worker.
    """

    finder: "LineFinder"

    def __init__(self, nice: int = NICE) -> None:
        self._nice = nice

    def on_start(self) -> None:
        """Load the detector."""
        from example_app.finder import LineFinder

        os.nice(self._nice)
        self.finder = LineFinder()

    def handle(self, *tasks: OcrTask) -> None:
        """Cut the lines out of each picture and release the picture."""
        for task in tasks:
            assert task.pixels is not None
            task.strips = self.finder.find(task.pixels)
            task.pixels = None


class Recognise(BaseTaskHandler):
    """Reads the lines.

    Args:
        nice: Added to the niceness of the worker.
    """

    reader: "LineReader"

    def __init__(self, nice: int = NICE) -> None:
        self._nice = nice

    def on_start(self) -> None:
        """Load the classifier and the recogniser."""
        from example_app.reader import LineReader

        os.nice(self._nice)
        self.reader = LineReader()

    def handle(self, *tasks: OcrTask) -> None:
        """Read the next line of each picture in each round, and send it.

        A picture leaves the batch after its last line, or after the round in which its caller has left.
        """
        begun_at = time.monotonic()
        for task in tasks:
            task.strips = self._arrange(task.strips)
        for index, live in enumerate(self.rounds(tasks)):
            self._read_lines(index, live)
            for task in live:
                if index + 1 >= len(task.strips):
                    self._finish(task, time.monotonic() - begun_at)

    def _arrange(self, strips: list[Strip]) -> list[Strip]:
        """Return the lines of one picture upright and in reading order."""
        upright = self.reader.turn_upright(strips)
        return [upright[index] for index in reading_order([strip.corners for strip in upright])]

    # A function of its own: a variable that refers to a strip after the round would keep its shared memory.
    def _read_lines(self, index: int, tasks: list[OcrTask]) -> None:
        """Read the line at this index of each picture that has one."""
        reading = [task for task in tasks if index < len(task.strips)]
        readings = self.reader.read([task.strips[index].pixels for task in reading])
        for task, (text, score) in zip(reading, readings, strict=True):
            if text.strip() and score >= task.min_score:
                box = [(float(x), float(y)) for x, y in task.strips[index].corners]
                task.lines.append(Line(text, score, box))
                task.emit(ReadLine(text, score, box, index + 1, len(task.strips)))
            task.progress(index + 1, len(task.strips))  # also where the line is left out

    def _finish(self, task: OcrTask, seconds: float) -> None:
        """Log what was read, with the id of the task's request, and answer the task."""
        with task_context(task):
            log.info("read %d of %d lines in %.2f s", len(task.lines), len(task.strips), seconds)
        task.strips = []
        task.finish()


# The detector takes 0.5 to 1.5 s of a core for each picture, depending on the processor, so one worker would leave a
# second core half idle. The recogniser takes up to 0.5 s for a picture full of text. So batches hardly wait; in a batch
# the pictures are read side by side, so that the first lines of one do not wait for the last of another.
flow = Flow(
    FlowStep(Decode(), nprocs=2),
    FlowStep(Detect(), nprocs=2),
    FlowStep(Recognise(), batch_size=4, batch_timeout=0.01),
    context=[request_id],
)


def make_task() -> OcrTask:
    """Make a task for ``fastapi-aqueduct check``."""
    picture = Path(__file__).resolve().parent / "samples" / "receipt.jpg"
    return OcrTask(memoryview(picture.read_bytes()))
