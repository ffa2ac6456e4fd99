"""The pipeline. The workers import this module, so it does not import FastAPI."""

from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Interval

from fastapi_aqueduct import BaseTask, BaseTaskHandler, Flow, FlowStep, Upload


@dataclass
class Line:
    text: str
    score: float


@dataclass
class Picture(BaseTask):
    image: Upload
    min_score: Annotated[float, Interval(ge=0, le=1)] = 0.5
    lines: list[Line] = field(default_factory=list, init=False)


class Read(BaseTaskHandler):
    def on_start(self) -> None:
        from rapidocr import RapidOCR

        self.ocr = RapidOCR()

    def handle(self, *tasks: Picture) -> None:
        for task in tasks:
            found = self.ocr(bytes(task.image))
            pairs = zip(found.txts or [], found.scores or [], strict=True)
            task.lines = [Line(text, float(score)) for text, score in pairs if score >= task.min_score]


flow = Flow(FlowStep(Read(), nprocs=2), name="reading")
