from fastapi import FastAPI
from pipeline import Line, Picture, flow

from fastapi_aqueduct import Aqueduct, flow_endpoint

app = FastAPI(lifespan=Aqueduct(flow).lifespan)


@app.post("/read")
@flow_endpoint(flow, timeout_sec=30)
async def read(task: Picture) -> list[Line]:
    return task.lines
