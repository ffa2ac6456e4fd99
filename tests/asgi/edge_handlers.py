"""Tasks with every kind of body, and what works on them in worker processes; imports no web framework."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field

from fastapi_aqueduct import BaseTask, BaseTaskHandler, FormField, Upload, UploadInfo


class Label(BaseModel):
    """A model of form fields."""

    text: str = Field(max_length=5)
    size: int = 3


class Pair(BaseTask):
    """Two files and fields beside them."""

    def __init__(
        self,
        front: Upload,
        back: Upload,
        front_info: UploadInfo,
        back_info: UploadInfo,
        title: Annotated[str, FormField()],
        numbers: Annotated[list[int], FormField()] = [],  # noqa: B006
        quality: int = 1,
    ) -> None:
        super().__init__()
        self.front: Upload | None = front
        self.back: Upload | None = back
        self.infos = [front_info, back_info]
        self.title = title
        self.numbers = numbers
        self.quality = quality
        self.report: list[Any] = []


class Compare(BaseTaskHandler):
    """Says what arrived."""

    def handle(self, *tasks: Pair) -> None:
        for task in tasks:
            assert task.front is not None and task.back is not None
            infos = [tuple(info[:3]) for info in task.infos]
            task.report = [sum(task.front), sum(task.back), infos, task.title, task.numbers, task.quality]
            task.front = task.back = None


class Labelled(BaseTask):
    """A file with a model of form fields, and a file that need not come."""

    def __init__(
        self,
        image: Upload,
        label: Annotated[Label, FormField()],
        mask: Upload | None = None,
        image_info: UploadInfo | None = None,
    ) -> None:
        super().__init__()
        self.size = len(image)
        self.mask_size = -1 if mask is None else len(mask)
        self.label = label


class Pass(BaseTaskHandler):
    """Does nothing."""

    def handle(self, *tasks: BaseTask) -> None:
        pass


class Described(BaseTask):
    """A file and what the client said about it."""

    def __init__(self, image: Upload, image_info: UploadInfo) -> None:
        super().__init__()
        self.image: Upload | None = image
        self.info = image_info
        self.seen: tuple[Any, ...] = ()


class Look(BaseTaskHandler):
    """Reads the description in the worker."""

    def handle(self, *tasks: Described) -> None:
        for task in tasks:
            task.seen = tuple(task.info[:3])
            task.image = None


class Pixels(BaseTask):
    """Asks for an array."""

    def __init__(self, size: int, kind: str = "array") -> None:
        super().__init__()
        self.size = size
        self.kind = kind
        self.array: Any = None


class Paint(BaseTaskHandler):
    """Makes an array."""

    def handle(self, *tasks: Pixels) -> None:
        for task in tasks:
            array = np.arange(task.size, dtype=np.uint32)
            task.array = array if task.kind == "array" else array.tobytes()
