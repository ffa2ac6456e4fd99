"""Modules of users name flows in these ways."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from fastapi_aqueduct import Aqueduct, BaseTask, BaseTaskHandler, Flow, ModelPool, in_worker


class Read(BaseTaskHandler):
    def handle(self, *tasks: Any) -> None:
        pass


class Holder:
    """Has a flow as an attribute."""

    flow = Flow(Read(), name="held")


@in_worker()
def stars(text: str) -> int:
    return len(text)


@in_worker(batch_size=4)
def lengths(texts: list[str]) -> list[int]:
    return [len(text) for text in texts]


def load_short() -> int:
    return 3


def measure(model: int, text: str) -> bool:
    return len(text) < model


def make_task() -> BaseTask:
    return BaseTask()


pool = ModelPool({"short": load_short})
pages, words = Flow(Read(), name="pages"), Flow(Read(), name="words")
single, both = Aqueduct(pages), Aqueduct(pages, words)
app = FastAPI(lifespan=both.lifespan)
number = 3
