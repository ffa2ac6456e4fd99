"""Handlers that are tried out beside each other."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi_aqueduct import BaseTaskHandler

from ..handlers import Gate

HOUR = 3600.0


@dataclass
class Versioned(BaseTaskHandler):
    """Answers with its version.

    Attributes:
        version: The version.
        fault: What goes wrong: `on_start` raises, or each call raises, hangs, or ends the process.
    """

    version: int
    fault: str = ""

    def on_start(self) -> None:
        if self.fault == "start":
            raise ValueError("no such model")

    def handle(self, *tasks: Any) -> None:
        for task in tasks:
            if self.fault == "call":
                raise KeyError("label")
            if self.fault == "exit":
                os._exit(3)
            if self.fault == "hang":
                time.sleep(HOUR)
            task.result = self.version, sum(task.payload)


@dataclass
class StartsOnce(Versioned):
    """Starts in one worker, and in no further one. `fault` is the file that tells."""

    def on_start(self) -> None:
        try:
            Path(self.fault).touch(exist_ok=False)
        except FileExistsError:
            raise ValueError("once is enough") from None


@dataclass
class Doubled(BaseTaskHandler):
    """Answers with a multiple of its input, an array.

    Attributes:
        factor: The multiple.
        gate: Where it waits before each call.
        fault: What goes wrong at a task whose input is 13: it raises, or the process exits.
    """

    factor: int
    gate: Gate | None = None
    fault: str = ""

    def handle(self, *tasks: Any) -> None:
        if self.gate is not None:
            self.gate.enter()
        for task in tasks:
            if task.number == 13 and self.fault == "raise":
                raise KeyError(13)
            if task.number == 13 and self.fault == "exit":
                os._exit(3)
            task.result = task.payload * self.factor
