"""A module that takes seconds to import, and a model of 300 MB."""

from __future__ import annotations

import functools
import os

import numpy as np
from numpy.typing import NDArray

from fastapi_aqueduct import BaseTask, BaseTaskHandler

SIZE = 300_000_000
"""Bytes of the model."""

CHECKSUM = sum(number * number for number in range(15_000_000))
"""What the import computes: stands for the modules of a large framework."""


@functools.cache
def load() -> NDArray[np.float64]:
    return np.random.default_rng(CHECKSUM).random(SIZE // 8)


class Question(BaseTask):
    def __init__(self) -> None:
        super().__init__()
        self.pid = 0
        self.total = 0.0


class Answer(BaseTaskHandler):
    """Reads all of the model."""

    def on_start(self) -> None:
        self.model = load()

    def handle(self, *tasks: Question) -> None:
        for task in tasks:
            task.total = float(self.model.sum())
            task.pid = os.getpid()
