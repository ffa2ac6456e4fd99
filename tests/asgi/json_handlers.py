"""Tasks of JSON bodies, and what works on them; apart from `handlers`, because only their workers need pydantic."""

from __future__ import annotations

from pydantic import BaseModel

from fastapi_aqueduct import BaseTask, BaseTaskHandler


class Order(BaseModel):
    """A JSON body."""

    words: list[str]
    times: int = 1


class Text(BaseTask):
    """A JSON body as a task."""

    def __init__(self, order: Order) -> None:
        super().__init__()
        self.order = order
        self.text = ""


class Join(BaseTaskHandler):
    """Joins words."""

    def handle(self, *tasks: Text) -> None:
        for task in tasks:
            task.text = " ".join(task.order.words * task.order.times)
