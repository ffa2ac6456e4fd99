"""Models for whose larger batches the memory is too small."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from fastapi_aqueduct import BaseTaskHandler


class Buffer:
    """Memory that a call allocates, which tells when it is free."""


class Limited(BaseTaskHandler):
    """A model for whose larger batches the memory is too small, because of what it allocates for each task.

    Args:
        fits: How many tasks fit.
        error: The exception of a larger batch.
    """

    def __init__(self, fits: int, error: Callable[[], BaseException] = MemoryError) -> None:
        self.fits = fits
        self.error = error

    def on_start(self) -> None:
        self.alive: weakref.WeakSet[Buffer] = weakref.WeakSet()
        self.calls: list[int] = []

    def handle(self, *tasks: Any) -> None:
        left = len(self.alive)  # of calls before
        self.calls.append(len(tasks))
        buffers = []
        for task in tasks:
            buffers.append(Buffer())
            self.alive.add(buffers[-1])
            task.runs = task.runs + 1
            task.notes.append("touched")
            if task.act == "emit":
                task.emit("item")
        try:
            if len(tasks) > self.fits:
                raise self.error()
        except BaseException as exc:
            kept = exc  # as code does that logs it: the frame and the exception refer to each other
            raise kept from None
        for task in tasks:
            if task.act == "raise":
                raise ValueError("a bad input")
            task.left, task.calls, task.together = left, list(self.calls), len(tasks)


class Onnx(BaseTaskHandler):
    """Allocates one terabyte for each task but one, with ONNX Runtime."""

    def on_start(self) -> None:
        import onnxruntime  # no other worker needs it

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        self.session = onnxruntime.InferenceSession(constant_of_shape(), options, providers=["CPUExecutionProvider"])

    def handle(self, *tasks: Any) -> None:
        size = 1 + (len(tasks) - 1) * 10**15
        (found,) = self.session.run(None, {"input": np.array([size])})
        for task in tasks:
            task.found = len(found)


def constant_of_shape() -> bytes:
    """Return a model that makes an array of zeros of a given length, as the bytes of ONNX's protocol buffers."""

    def field(number: int, data: bytes) -> bytes:
        return bytes([number << 3 | 2, len(data)]) + data

    def tensor(name: bytes, kind: int, size: bytes) -> bytes:
        return field(1, name) + field(2, field(1, b"\x08" + bytes([kind]) + field(2, field(1, size))))

    node = field(1, b"input") + field(2, b"output") + field(4, b"ConstantOfShape")
    graph = field(1, node) + field(2, b"graph")
    graph += field(11, tensor(b"input", 7, b"\x08\x01")) + field(12, tensor(b"output", 1, field(2, b"n")))
    return b"\x08\x08" + field(7, graph) + field(8, b"\x10\x0d")
