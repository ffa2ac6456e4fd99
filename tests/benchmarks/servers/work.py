"""The work that every server does, independent of the package that carries it."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.uint8]

PAGE = 4096
ARRAY_SIZE = 256 << 10
LARGE_ARRAY_SIZE = 16 << 20
BATCH_SIZE = 16
BATCH_WAIT = 0.010
ACTOR_BATCH_SIZE = 8
DEVICES = 2
DEVICE_TIME = 0.050
CALL_TIME = 0.010
TASK_TIME = 0.001
LATENESS = 0.0002
"""Seconds by which the system may wake a sleeper late; they would be charged to the server of the model."""


def touch(body: Any) -> int:
    """Look at every page of a body."""
    return int(np.frombuffer(body, np.uint8)[::PAGE].sum())


def run_model(count: int) -> None:
    """Take as long as a model that works on a batch, to the microsecond."""
    end = time.perf_counter() + CALL_TIME + TASK_TIME * count
    time.sleep(end - time.perf_counter() - LATENESS)
    while time.perf_counter() < end:
        pass


def make_array(value: int, size: int = ARRAY_SIZE) -> Array:
    """Make what goes from step to step."""
    return np.full(size, value, np.uint8)


def last_of(array: Array) -> int:
    """Look at the end of what came."""
    return int(array[-1])
