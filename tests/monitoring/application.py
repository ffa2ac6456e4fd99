"""A light service with all that is monitored: uploads, steps with batches, streams, refusals."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import FastAPI, Request
from fastapi.responses import EventSourceResponse, JSONResponse
from prometheus_fastapi_instrumentator import Instrumentator

from fastapi_aqueduct import Aqueduct, Flow, FlowStep, FlowStream, flow_endpoint

from .handlers import Answer, Label, Photo, Question, Shrink

photos = Flow(
    Shrink(),
    FlowStep(Label(), name="label", nprocs=2, batch_size=8, batch_timeout=0.005, max_retries=0),
    queue_size=16,
    memory_limit=64 << 20,
    name="photos",
)
answers = Flow(FlowStep(Answer(), name="answer"), name="answers")
app = FastAPI(lifespan=Aqueduct(photos, answers).lifespan)
Instrumentator().instrument(app).expose(app)


@app.exception_handler(ValueError)
async def refuse(request: Request, error: ValueError) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 422)


@app.post("/photos")
@flow_endpoint(photos, timeout_sec=0.5)
async def label(task: Photo) -> str:
    return task.label


@app.get("/answers", response_class=EventSourceResponse)
@flow_endpoint(answers)
async def answer(task: Question, words: FlowStream[str]) -> AsyncIterator[str]:
    async for word in words:
        yield word
