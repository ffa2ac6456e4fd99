"""Models, loaders and functions of pools, as the manual of MLPool has them. Imported by workers."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from fastapi_aqueduct import in_worker

from ..handlers import Gate


class TextClassifier:
    """Classifies by length.

    Args:
        weights_path: Where its weights would be.
    """

    def __init__(self, weights_path: str) -> None:
        self.weights_path = weights_path
        self.pid = os.getpid()

    def classify_text(self, text: str) -> str:
        return "long" if len(text) > 10 else "short"


class Client:
    """Stands for a client of a database."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def query(self, text: str) -> int:
        self.asked.append(text)
        return len(self.asked)


def load_text_classifier(weights_path: str) -> TextClassifier:
    return TextClassifier(weights_path)


async def load_digits() -> list[str]:
    await asyncio.sleep(0)
    return ["zero", "one", "two"]


def load_more_digits() -> list[str]:
    return ["zero", "one", "two"]


def load_ranker() -> tuple[TextClassifier, Client]:
    """The function needs a client as well, which cannot travel."""
    return TextClassifier("ranker.pt"), Client()


LOADERS: dict[str, Callable[[], Any]] = {
    "text_classifier": partial(load_text_classifier, "text_classification.pt"),
    "digits": load_digits,
    "ranker": load_ranker,
}


def score_text_classifier(model: TextClassifier, text: str) -> str:
    return model.classify_text(text)


def describe(model: TextClassifier, *args: Any, **kwargs: Any) -> tuple[str, int, tuple[Any, ...], dict[str, Any]]:
    return model.weights_path, model.pid, args, kwargs


def name_digit(model: list[str], digit: int) -> str:
    return model[digit]


def name_digits(model: list[str], digits: list[int]) -> list[str]:
    if 7 in digits:
        raise ValueError("no digit")
    return [f"{model[digit]} of {len(digits)}" for digit in digits]


def count_digits(model: list[str], digits: list[int]) -> list[int]:
    return [len(digits)] * len(digits)


def too_few(model: list[str], digits: list[int]) -> list[int]:
    return digits[1:]


def rank(model: tuple[TextClassifier, Client], text: str) -> tuple[str, int]:
    classifier, client = model
    return classifier.classify_text(text), client.query(text)


def look_at(model: object, pixels: Any) -> tuple[str, int, bool]:
    return type(pixels).__name__, len(pixels), memoryview(pixels).readonly


def die(model: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(model: object, path: Path) -> int:
    """The author's first known fault: a worker dies with a job in its hands."""
    if not path.exists():
        path.touch()
        die(model)
    return os.getpid()


def fail(model: object) -> None:
    raise ValueError("as asked")


def pid(model: object) -> int:
    return os.getpid()


def hold(model: object, gate: Gate) -> None:
    gate.enter()


def sleep(model: object, seconds: float) -> None:
    time.sleep(seconds)


def note(model: object, path: Path) -> None:
    path.touch()


async def wait(model: object) -> None: ...


def numbers(model: object) -> Any:
    yield 1


@in_worker
def decorated(model: object) -> None: ...


class Scorer:
    def score(self, model: object) -> None: ...


SCORER = Scorer()


def load_if_allowed(path: Path) -> str:
    if path.exists():
        raise RuntimeError("the weights are gone")
    return "model"


def load_nothing() -> None: ...
