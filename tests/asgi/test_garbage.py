"""Uploads that an application keeps in cycles of its own."""

from __future__ import annotations

import gc
from typing import Annotated

from fastapi import FastAPI, HTTPException

from fastapi_aqueduct import Aqueduct, FlowDep, FlowTask
from fastapi_aqueduct.testing import client

from ..endings.pipeline import Bad, Picture, Suffer
from ..support import forked

MIB = 1 << 20


async def test_no_upload_is_refused_for_cycles_of_the_application() -> None:
    flow = forked(Suffer(), memory_limit=16 * MIB)
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.post("/picture")
    async def picture(task: Annotated[Picture, FlowTask()], flow: FlowDep) -> int:
        error: Bad | None = None
        try:
            await flow.process(task)
        except Bad as exc:
            error = exc
        if error is not None:
            raise HTTPException(422, str(error))
        return task.size

    gc.disable()
    try:
        async with client(app) as http:
            for _ in range(40):
                assert (await http.post("/picture?fate=raise", content=bytes(MIB))).status_code == 422
            assert (await http.post("/picture", content=bytes(MIB))).json() == MIB
    finally:
        gc.enable()
