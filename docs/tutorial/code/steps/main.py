from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pipeline import Line, NotAPicture, Picture, flow

from fastapi_aqueduct import Aqueduct, flow_endpoint

app = FastAPI(lifespan=Aqueduct(flow, server_timing=True).lifespan)


@app.post("/read")
@flow_endpoint(flow, timeout_sec=30)
async def read(task: Picture) -> list[Line]:
    return task.lines


@app.exception_handler(NotAPicture)
async def refuse(request: Request, error: NotAPicture) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 415)
