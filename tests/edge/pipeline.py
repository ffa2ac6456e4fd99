"""What the served application does in its worker process; imports no web framework."""

from __future__ import annotations

import zlib
from typing import Annotated, Any

from annotated_types import Ge

from fastapi_aqueduct import BaseTask, BaseTaskHandler, Upload, UploadInfo

from ..asgi.edge_handlers import Compare, Paint, Pair, Pixels
from ..asgi.handlers import Held, HeldPicture, Hold
from ..asgi.json_handlers import Join, Text


class Parcel(BaseTask):
    """A body, what the client said about it, and a number beside it."""

    def __init__(self, image: Upload, image_info: UploadInfo, factor: Annotated[int, Ge(1)] = 1) -> None:
        super().__init__()
        self.image: Upload | None = image
        self.info = image_info
        self.factor = factor
        self.report: dict[str, Any] = {}


class Inspect(BaseTaskHandler):
    """Says what arrived."""

    def handle(self, *tasks: Parcel) -> None:
        for task in tasks:
            assert task.image is not None
            size, checksum = len(task.image), zlib.crc32(task.image)
            task.report = {"size": size, "checksum": checksum, "factor": task.factor, "info": tuple(task.info)}
            task.image = None


class Everything(BaseTaskHandler):
    """Passes each task to the handler for its type: one worker is enough, and can be held with a queue behind it."""

    def __init__(self) -> None:
        hold = Hold()
        self._handlers: dict[type[BaseTask], Any] = {
            Parcel: Inspect(),
            Pair: Compare(),
            Text: Join(),
            Pixels: Paint(),
            Held: hold,
            HeldPicture: hold,
        }

    def handle(self, *tasks: BaseTask) -> None:
        for task in tasks:
            self._handlers[type(task)].handle(task)
