"""An application in which the parts of the package work together; `test_vision` calls it."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterator
from dataclasses import dataclass, field

from fastapi import Depends, FastAPI, Header, HTTPException
from fastapi.responses import EventSourceResponse
from pydantic import BaseModel

from fastapi_aqueduct import (
    Aqueduct,
    Autoscale,
    BaseTask,
    BaseTaskHandler,
    Flow,
    FlowStep,
    FlowStream,
    WorkerOptions,
    flow_endpoint,
    worker_info,
)


@dataclass
class Prompt(BaseTask):
    """A task that each step fills in."""

    text: str
    faces: int = field(default=0, init=False)
    plates: str = field(default="", init=False)
    answer: str = field(default="", init=False)


class Token(BaseModel):
    """An item of the response."""

    text: str


class Model:
    """Makes words."""

    def __init__(self, device: str | None) -> None:
        self.device = device

    def generate(self, text: str) -> Iterator[str]:
        yield from text.split()


class Decode(BaseTaskHandler):
    def handle(self, *tasks: Prompt) -> None:
        for task in tasks:
            task.text = task.text.lower()


class Faces(BaseTaskHandler):
    """Streams in one branch."""

    def on_start(self) -> None:
        self.model = Model(worker_info().device)

    def handle(self, task: Prompt) -> Iterator[str]:
        for token in self.model.generate(task.text):
            task.faces += 1
            yield token


class Plates(BaseTaskHandler):
    def handle(self, *tasks: Prompt) -> None:
        for task in tasks:
            task.plates = f"a plate on {worker_info().device}"


class Caption(BaseTaskHandler):
    def handle(self, *tasks: Prompt) -> None:
        for task in tasks:
            task.answer = f"{task.faces} faces, {task.plates}"
            task.emit(task.answer)


flow = Flow(
    FlowStep(Decode(), nprocs=2),
    [Faces(), FlowStep(Plates(), worker=WorkerOptions(devices=["0", "1"]))],
    FlowStep(Caption(), name="caption", nprocs=Autoscale(0, 4, idle_after=300), batch_size=16, batch_timeout="auto"),
    name="vision",
)
aqueduct = Aqueduct(flow)


def admin(key: str = Header(default="", alias="x-key")) -> None:
    """Let only one user through."""
    if key != "secret":
        raise HTTPException(403)


app = FastAPI(lifespan=aqueduct.lifespan)
app.include_router(aqueduct.admin, prefix="/ops", dependencies=[Depends(admin)])


@app.post("/generate", response_class=EventSourceResponse)
@flow_endpoint(flow)
async def generate(task: Prompt, tokens: FlowStream[str]) -> AsyncIterable[Token]:
    async for text in tokens:
        yield Token(text=text)
