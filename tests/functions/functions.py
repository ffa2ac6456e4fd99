"""Functions that the tests run in workers."""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from fastapi_aqueduct import in_worker

from .elsewhere import halve, load_factor


class Model:
    """Counts letters.

    Args:
        pid: The process that has loaded it.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.calls = 0

    def predict(self, texts: list[str]) -> list[int]:
        self.calls += 1
        return [len(text) for text in texts]


def load_model() -> Model:
    return Model(os.getpid())


async def load_model_in_loop() -> Model:
    await asyncio.sleep(0)
    return load_model()


@in_worker(load=load_model, batch_size=4, batch_timeout=0.05)
def stars(model: Model, texts: list[str]) -> list[int]:
    if "bad" in texts:
        raise ValueError("a bad text")
    if "few" in texts:
        return model.predict(texts)[1:]
    if "size" in texts:
        return [len(texts)] * len(texts)
    if "map" in texts:
        return dict.fromkeys(texts, 1)  # type: ignore[return-value]
    return model.predict(texts)


@in_worker
def resize(image: Any, width: int = 64, *, note: bytes = b"") -> dict[str, Any]:
    """Resize a picture."""
    return {
        "type": type(image).__name__,
        "size": len(image),
        "is_writable": not memoryview(image).readonly,
        "width": width,
        "note": len(note),
        "pid": os.getpid(),
    }


@in_worker
def pid() -> int:
    return os.getpid()


@in_worker(mp_start_method="forkserver")
def first_half(image: Any) -> Any:
    return image[: len(image) // 2]


@in_worker(queue_priorities=2, mp_start_method="forkserver")
def behave(how: str, seconds: float = 0.0) -> object:
    if how == "wait":
        time.sleep(seconds)
    if how == "lock":
        return threading.Lock()
    if how == "raise":
        raise ValueError("as asked")
    return how


@in_worker(load=load_model_in_loop, concurrency=8, mp_start_method="forkserver")
async def answer(model: Model, text: str, seconds: float = 0.0) -> tuple[int, int]:
    await asyncio.sleep(seconds)
    return len(text), model.pid


@in_worker(batch_size=8, mp_start_method="forkserver")
async def double(numbers: list[int]) -> list[int]:
    await asyncio.sleep(0)
    return [2 * number for number in numbers]


@in_worker(load=lambda: "ab", concurrency=4, mp_start_method="forkserver")
def repeat(letters: str, times: int) -> Iterator[str]:
    for number in range(times):
        yield letters[number % 2]


@in_worker(mp_start_method="forkserver")
async def count(to: int) -> AsyncIterator[int]:
    for number in range(to):
        yield number
        await asyncio.sleep(0)


halve_in_worker = in_worker(load=load_factor, mp_start_method="forkserver")(halve)
"""A function of another module, which keeps its name there."""

root = in_worker(mp_start_method="forkserver")(math.sqrt)
