"""The web service of the example: reads the text of a picture."""

from collections.abc import AsyncIterable
from pathlib import Path
from typing import Any, Literal

from fastapi import Depends, FastAPI, Request
from fastapi.responses import EventSourceResponse, FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from prometheus_fastapi_instrumentator import Instrumentator
from pydantic import BaseModel

from example_app.logs import configure_logs
from example_app.operators import check_operator
from example_app.pictures import NotAPicture, PictureError, PictureTooLarge
from example_app.pipeline import Line, OcrTask, ReadLine, flow
from example_app.request_ids import RequestIds
from example_app.traces import configure_traces
from fastapi_aqueduct import Aqueduct, FlowStream, Progress, flow_endpoint

HERE = Path(__file__).parent
TIMEOUT = 60.0
"""Seconds for one picture, enough for a queue of large pictures on a small machine."""

UNCOUNTED = ["^/ready$", "^/live$", "^/startup$", "^/metrics$", "^/ops/"]


class StepTime(BaseModel):
    """The times of one step, in seconds."""

    step: str
    queue_time: float
    handle_time: float
    batch_size: int


class OcrResult(BaseModel):
    """The text of a picture; the lines are in reading order, their boxes in pixels of the upright picture."""

    width: int
    height: int
    lines: list[Line]
    steps: list[StepTime]


class ReadingProgress(BaseModel):
    """How many of the lines are read, also of those that are left out."""

    event: Literal["progress"] = "progress"
    done: int
    of: int


class Summary(BaseModel):
    """The last event of a stream, after all lines."""

    event: Literal["summary"] = "summary"
    width: int
    height: int
    steps: list[StepTime]


class Problem(BaseModel):
    """Why a picture was refused."""

    detail: str


class Mistakes(BaseModel):
    """Invalid parameters of a request, in the format of FastAPI."""

    detail: list[dict[str, Any]]


REFUSALS: dict[int | str, dict[str, Any]] = {
    413: {"model": Problem},
    415: {"model": Problem},
    422: {"model": Problem | Mistakes},
}

configure_logs()
configure_traces()
aqueduct = Aqueduct(flow, server_timing=True)  # the names of the steps are public here
app = FastAPI(
    title="Text from photographs",
    description="Reads the text of photographed receipts, letters and signs.",
    lifespan=aqueduct.lifespan,
)
Instrumentator(excluded_handlers=UNCOUNTED).instrument(app).expose(app, include_in_schema=False)
app.add_middleware(RequestIds)
app.include_router(aqueduct.admin, prefix="/ops", dependencies=[Depends(check_operator)])
app.mount("/static", StaticFiles(directory=HERE / "static"))
app.mount("/samples", StaticFiles(directory=HERE / "samples"))


@app.post("/ocr", responses=REFUSALS)
@flow_endpoint(flow, timeout_sec=TIMEOUT)
async def ocr(task: OcrTask) -> OcrResult:
    """Read the text of a picture."""
    return OcrResult(width=task.width, height=task.height, lines=task.lines, steps=step_times(task))


@app.post("/ocr/stream", response_class=EventSourceResponse, responses=REFUSALS)
@flow_endpoint(flow, timeout_sec=TIMEOUT)
async def ocr_stream(
    task: OcrTask, items: FlowStream[ReadLine | Progress]
) -> AsyncIterable[ReadLine | ReadingProgress | Summary]:
    """Read the text of a picture; each line is sent as soon as it is read."""
    async for item in items:
        yield ReadingProgress(done=int(item.done), of=int(item.of)) if isinstance(item, Progress) else item
    yield Summary(width=task.width, height=task.height, steps=step_times(task))


def step_times(task: OcrTask) -> list[StepTime]:
    """Return the times of a finished task."""
    return [StepTime(**step._asdict()) for step in task.metrics.steps]


@app.get("/", include_in_schema=False)
async def page() -> FileResponse:
    """Return the page on which a user drops a picture."""
    return FileResponse(HERE / "static" / "page.html", headers={"Content-Security-Policy": "default-src 'self' blob:"})


@app.exception_handler(PictureError)
async def refuse_picture(request: Request, error: PictureError) -> JSONResponse:
    """Respond with the reason why a picture was refused."""
    status = 415 if isinstance(error, NotAPicture) else 413 if isinstance(error, PictureTooLarge) else 422
    return JSONResponse({"detail": str(error)}, status)
