from fastapi import FastAPI
from pipeline import Document, Line, flow
from pydantic import BaseModel

from fastapi_aqueduct import Aqueduct, flow_endpoint

app = FastAPI(lifespan=Aqueduct(flow).lifespan)


class Page(BaseModel):
    name: str | None
    lines: list[Line]


@app.post("/read")
@flow_endpoint(flow, timeout_sec=60, max_body_size=50 << 20)
async def read(task: Document) -> dict[str, list[Page]]:
    pages = zip(task.page_info, task.lines, strict=True)
    return {task.title: [Page(name=info.filename, lines=lines) for info, lines in pages]}
