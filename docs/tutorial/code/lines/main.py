from collections.abc import AsyncIterable

from fastapi import FastAPI, Request
from fastapi.responses import EventSourceResponse, JSONResponse
from pipeline import Line, NotAPicture, Picture, flow

from fastapi_aqueduct import Aqueduct, FlowStream, flow_endpoint

app = FastAPI(lifespan=Aqueduct(flow, server_timing=True).lifespan)


@app.post("/read")
@flow_endpoint(flow, timeout_sec=30)
async def read(task: Picture) -> list[Line]:
    return task.lines


@app.post("/read/lines", response_class=EventSourceResponse)
@flow_endpoint(flow, timeout_sec=30)
async def read_lines(task: Picture, lines: FlowStream[Line]) -> AsyncIterable[Line]:
    async for line in lines:
        yield line


@app.exception_handler(NotAPicture)
async def refuse(request: Request, error: NotAPicture) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 415)
