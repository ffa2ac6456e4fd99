"""The pipeline. The workers import this module, so it does not import FastAPI."""

from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import numpy.typing as npt
from annotated_types import Interval

from fastapi_aqueduct import BaseTask, BaseTaskHandler, Flow, FlowStep, Upload

Pixels = npt.NDArray[np.uint8]


class NotAPicture(Exception):
    """The upload is not a picture."""


@dataclass
class Line:
    text: str
    score: float


@dataclass
class Picture(BaseTask):
    image: Upload
    min_score: Annotated[float, Interval(ge=0, le=1)] = 0.5
    pixels: Pixels | None = field(default=None, init=False)
    strips: list[Pixels] = field(default_factory=list, init=False)
    lines: list[Line] = field(default_factory=list, init=False)


class Decode(BaseTaskHandler):
    def handle(self, *tasks: Picture) -> None:
        import cv2

        for task in tasks:
            task.pixels = cv2.imdecode(np.frombuffer(task.image, np.uint8), cv2.IMREAD_COLOR)
            if task.pixels is None:
                task.fail(NotAPicture("the upload is not a picture"))
            del task.image


class Detect(BaseTaskHandler):
    def on_start(self) -> None:
        from rapidocr import RapidOCR

        self.ocr = RapidOCR()

    def handle(self, *tasks: Picture) -> None:
        for task in tasks:
            boxes = self.ocr(task.pixels, use_cls=False, use_rec=False).boxes
            task.strips = [cut_out(task.pixels, box) for box in boxes] if boxes is not None else []
            task.pixels = None


class Recognise(BaseTaskHandler):
    def on_start(self) -> None:
        from rapidocr import RapidOCR

        self.ocr = RapidOCR()

    def handle(self, *tasks: Picture) -> None:
        for task in tasks:
            for strip in task.strips:
                found = self.ocr(strip, use_det=False, use_cls=False)
                line = Line(found.txts[0], float(found.scores[0]))
                if line.score >= task.min_score:
                    task.lines.append(line)
            task.strips = []


def cut_out(pixels: Pixels, box: npt.NDArray[np.float32]) -> Pixels:
    """Cut the upright rectangle around a box of four points out of a picture."""
    left, top = np.maximum(box.min(axis=0), 0).astype(int)
    right, bottom = box.max(axis=0).astype(int) + 1
    return pixels[top:bottom, left:right].copy()


flow = Flow(Decode(), FlowStep(Detect(), nprocs=2), Recognise(), name="reading")
