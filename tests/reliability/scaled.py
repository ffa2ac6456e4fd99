"""Handlers of steps whose number of workers changes."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from fastapi_aqueduct import BaseTaskHandler

LARGE = 2 << 20


class Loading(BaseTaskHandler):
    """Loads while a file is there.

    Args:
        hold: The file.
        least: Seconds that it takes without the file.
    """

    def __init__(self, hold: Path, least: float = 0.0) -> None:
        self.hold = hold
        self.least = least

    def on_start(self) -> None:
        time.sleep(self.least)
        while self.hold.exists():
            time.sleep(0.005)

    def handle(self, *tasks: Any) -> None:
        for task in tasks:
            task.pid = os.getpid()


def stay_a_moment(task: Any) -> None:
    time.sleep(0.02)
    task.total = sum(task.payload)


def make_large(task: Any) -> None:
    task.large = b"\x05" * LARGE


def wants_second(task: Any) -> bool:
    return bool(task.number == 2)


def wait_at_gate(task: Any) -> Any:
    yield 1
    task.gate.enter()
    yield 2
