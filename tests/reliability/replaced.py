"""Handlers that replace each other."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi_aqueduct import BaseTaskHandler

from .handlers import wait_for_dump_signal


@dataclass
class Versioned(BaseTaskHandler):
    """Answers with its version.

    Attributes:
        version: The version.
        fault: What happens in `on_start`: it raises, the process exits or hangs, or it is only just too late.
        starts: A file with a line for each start; None: every start has the fault.
        fine: The starts without the fault.
    """

    version: int
    fault: str = ""
    starts: Path | None = None
    fine: int = 0

    def on_start(self) -> None:
        if self.starts is not None:
            with self.starts.open("a") as file:
                file.write("started\n")
            if len(self.starts.read_text().splitlines()) <= self.fine:
                return
        if self.fault == "raise":
            raise ValueError("no such model")
        if self.fault == "exit":
            os._exit(3)
        if self.fault == "hang":
            while True:
                signal.pause()
        if self.fault == "late":
            wait_for_dump_signal()

    def handle(self, *tasks: Any) -> None:
        for task in tasks:
            task.result = self.version, sum(task.payload)


ITEMS = 1000
"""More than wait for a consumer before the stream pauses."""


class Counting(BaseTaskHandler):
    """Yields numbers."""

    def handle(self, task: Any) -> Iterator[int]:
        yield from range(ITEMS)
