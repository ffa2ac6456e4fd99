"""The pipeline. The workers import this module, so it does not import FastAPI."""

from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Interval

from fastapi_aqueduct import BaseTask, BaseTaskHandler, Flow, FlowStep, FormField, PartLimits, Upload, UploadInfo

Page = Annotated[Upload, PartLimits(media_type="image/*", max_size=10 << 20)]


@dataclass
class Line:
    text: str
    score: float


@dataclass
class Document(BaseTask):
    page: list[Page]
    page_info: list[UploadInfo]
    title: Annotated[str, FormField()] = ""
    min_score: Annotated[float, Interval(ge=0, le=1)] = 0.5
    lines: list[list[Line]] = field(default_factory=list, init=False)


class Read(BaseTaskHandler):
    def on_start(self) -> None:
        from rapidocr import RapidOCR

        self.ocr = RapidOCR()

    def handle(self, *tasks: Document) -> None:
        for task in tasks:
            task.lines = [self.read(page, task.min_score) for page in task.page]

    def read(self, page: Upload, min_score: float) -> list[Line]:
        found = self.ocr(bytes(page))
        pairs = zip(found.txts or [], found.scores or [], strict=True)
        return [Line(text, float(score)) for text, score in pairs if score >= min_score]


flow = Flow(FlowStep(Read(), nprocs=2), name="reading")
