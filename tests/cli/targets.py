"""Modules of users name flows in these ways."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from fastapi_aqueduct import Aqueduct, BaseTaskHandler, Flow, in_worker


class Read(BaseTaskHandler):
    def handle(self, *tasks: Any) -> None:
        pass


class Holder:
    """Has a flow as an attribute."""

    flow = Flow(Read(), name="held")


@in_worker()
def stars(text: str) -> int:
    return len(text)


pages, words = Flow(Read(), name="pages"), Flow(Read(), name="words")
single, both = Aqueduct(pages), Aqueduct(pages, words)
app = FastAPI(lifespan=both.lifespan)
number = 3
