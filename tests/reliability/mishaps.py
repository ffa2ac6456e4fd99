"""What the soak does with uploads in its worker processes; imports no web framework."""

from __future__ import annotations

import os
import signal
import time
from typing import Annotated, Literal

import numpy as np

from fastapi_aqueduct import BaseTask, BaseTaskHandler, FormField, Upload


class Parcel(BaseTask):
    """An upload with a fate.

    Args:
        image: The upload.
        fate: What the handler does with it.
        number: A field of the form.
    """

    def __init__(
        self,
        image: Upload,
        fate: Literal["answer", "raise", "fail", "dawdle", "die"] = "answer",
        number: Annotated[int, FormField()] = 0,
    ) -> None:
        super().__init__()
        self.image = image
        self.fate = fate
        self.number = number
        self.total = 0


class Meet(BaseTaskHandler):
    """Sums the bytes of an upload, unless its fate is another one."""

    def handle(self, *tasks: Parcel) -> None:
        for task in tasks:
            if task.fate == "raise":
                raise ValueError("a bad upload")
            if task.fate == "fail":
                task.fail(ValueError("a bad upload"))
            elif task.fate == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            elif task.fate == "dawdle":
                time.sleep(0.5)
            task.total = int(np.frombuffer(task.image, np.uint8).sum(dtype=np.int64))
